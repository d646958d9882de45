"""CUDA graphs of a small encoder's passes, because launching its kernels takes longer than running them.

A graph is captured for one shape, with or without the backward pass to the prompts. Batches are padded to a few shapes,
a shape is captured after a few passes, and the least recently used graphs are dropped to make room.
"""

from __future__ import annotations

import gc
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ipt.runtime.memory import is_out_of_memory

Pass = Callable[[Tensor, Tensor | None], Tensor]
"""Maps packed rows [B, 2 + T] and their prompts [B, P, H] or None to embeddings [B, H]; all on the device."""

CAPTURED_AFTER = 5
"""Passes of a shape before it is captured; a capture costs about as much as these."""
MAX_GRAPHS = 48
"""Most graphs without gradients, which share one memory pool."""
WIDTH_STEP = 16
"""The number of tokens is rounded up to a multiple of this."""
HEIGHT_STEPS = 8
"""Steps of the number of rows between one power of two and the next, so that at most an eighth is padding."""
MAX_LAUNCH_BOUNDS = 3
"""Most positions of a graph, as a multiple of `launch_bound_positions`."""


@dataclass(frozen=True)
class _Shape:
    height: int
    width: int
    prompt: tuple[int, int, torch.dtype] | None
    """P, H and the dtype of the prompts."""
    prompt_positions: int
    with_gradient: bool

    @property
    def positions(self) -> int:
        return self.height * (self.width + self.prompt_positions)


class GraphedPasses:
    """The CUDA graphs of one function of a frozen model, which must stay on its device; not thread-safe.

    Args:
        device: the model's device.
        launch_bound: the model's `launch_bound_positions`.
        with_gradients: most positions of all graphs with gradients together; each keeps the activations of its pass.
        prompts_in_input: whether the P vectors of a prompt take P positions of its row; at every layer they take none.
    """

    def __init__(
        self, device: torch.device, launch_bound: int, with_gradients: int, *, prompts_in_input: bool = True
    ) -> None:
        self._device = device
        self._max_positions = MAX_LAUNCH_BOUNDS * launch_bound
        self._max_with_gradients = with_gradients
        self._prompts_in_input = prompts_in_input
        self._seen: Counter[_Shape] = Counter()
        self._graphs: OrderedDict[_Shape, _Graph] = OrderedDict()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def prepare(self, function: Pass, rows: int, tokens: int, prompts: Tensor | None) -> tuple[_Graph | None, int, int]:
        """Return the graph for a batch of `rows` rows of `tokens` tokens, and the sizes to pad the batch to.

        Returns None and the sizes unchanged if the pass should be launched without a graph.
        """
        no_graph = None, rows, tokens
        with_gradient = prompts is not None and prompts.requires_grad and torch.is_grad_enabled()
        height, width = round_up_rows(rows), -(-tokens // WIDTH_STEP) * WIDTH_STEP
        prompt = None if prompts is None else (prompts.shape[1], prompts.shape[2], prompts.dtype)
        prompt_positions = prompts.shape[1] if prompts is not None and self._prompts_in_input else 0
        shape = _Shape(height, width, prompt, prompt_positions, with_gradient)
        if shape.positions > min(self._max_positions, self._max_with_gradients):
            return no_graph
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            # Another pass would overwrite activations that still wait for their backward pass.
            return no_graph if graph.in_use else (graph, height, width)
        self._seen[shape] += 1
        if self._seen[shape] <= CAPTURED_AFTER:
            return no_graph
        self._make_room(shape)
        graph = self._try_capture(function, shape) or self._try_capture(function, shape)
        if graph is None:
            self._max_positions //= 2
            self._seen.clear()  # so that no shape is tried again at once
            return no_graph
        self._graphs[shape] = graph
        return graph, height, width

    def _make_room(self, new: _Shape) -> None:
        """Drop the least recently used graphs. A graph in use lives on until its backward pass is done."""
        same_kind = [shape for shape in self._graphs if shape.with_gradient == new.with_gradient]
        while same_kind and (
            sum(shape.positions for shape in same_kind) + new.positions > self._max_with_gradients
            if new.with_gradient
            else len(same_kind) >= MAX_GRAPHS
        ):
            oldest = same_kind.pop(0)
            del self._graphs[oldest], self._seen[oldest]
            if new.with_gradient:  # its private pool is reusable only after this
                torch.cuda.empty_cache()

    def _try_capture(self, function: Pass, shape: _Shape) -> _Graph | None:
        """Capture a graph; if memory runs out, drop all other graphs and return None."""
        try:
            return self._capture(function, shape)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what was captured so far
        self._graphs.clear()
        self._pool = None  # a pool ends with its last graph
        torch.cuda.empty_cache()
        return None

    def _capture(self, function: Pass, shape: _Shape) -> _Graph:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        if not shape.with_gradient and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        # Tensors made in inference mode could not be written to outside of it later.
        with (
            torch.cuda.stream(self._stream),
            torch.inference_mode(False),
            torch.set_grad_enabled(shape.with_gradient),
            _no_garbage_collection(),
        ):
            graph = _Graph(function, shape, self._device, None if shape.with_gradient else self._pool)
        current.wait_stream(self._stream)
        return graph


class _Graph:
    """A captured pass of one shape, with the tensors that it reads and writes. Create it on a stream of its own."""

    def __init__(self, function: Pass, shape: _Shape, device: torch.device, pool: Any) -> None:
        self.in_use = False
        self._packed = torch.zeros(shape.height, 2 + shape.width, dtype=torch.long, device=device)
        self._packed[:, 0] = 1
        self._prompts: Tensor | None = None
        if shape.prompt is not None:
            length, hidden_size, dtype = shape.prompt
            self._prompts = torch.zeros(shape.height, length, hidden_size, dtype=dtype, device=device)
        leaf = self._prompts.requires_grad_() if shape.with_gradient and self._prompts is not None else None
        # Libraries initialize themselves for the stream in a first pass, which cannot be captured.
        output = function(self._packed, self._prompts)
        if leaf is not None:
            torch.autograd.grad(output, leaf, torch.zeros_like(output))
        del output
        self._forward = torch.cuda.CUDAGraph()
        with _capturing(self._forward, pool):
            self._output = function(self._packed, self._prompts)
        self._backward: torch.cuda.CUDAGraph | None = None
        if leaf is not None:
            self._output_gradient = torch.zeros_like(self._output)
            self._backward = torch.cuda.CUDAGraph()
            with _capturing(self._backward, self._forward.pool()):
                (self._prompt_gradient,) = torch.autograd.grad(self._output, leaf, self._output_gradient)
        self._output = self._output.detach()

    def __call__(self, packed: Tensor, prompts: Tensor | None, rows: int) -> Tensor:
        """Return [rows, H] for the first `rows` of the packed rows [B, 2 + T], which are in pinned memory."""
        if self._backward is None:
            return self.forward(packed, prompts, rows)
        output: Tensor = _Replay.apply(prompts, self, packed, rows)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return output

    @torch.no_grad()
    def forward(self, packed: Tensor, prompts: Tensor | None, rows: int) -> Tensor:
        """Do the same as a call, without a backward pass."""
        self._packed.copy_(packed, non_blocking=True)
        if self._prompts is not None and prompts is not None:
            self._prompts[:rows].copy_(prompts)
        self._forward.replay()
        return self._output[:rows].clone()

    @torch.no_grad()
    def backward(self, output_gradient: Tensor) -> Tensor:
        """Return the gradient of the prompts [rows, P, H] from the gradient of the output [rows, H]."""
        rows = len(output_gradient)
        self._output_gradient[:rows].copy_(output_gradient)
        self._output_gradient[rows:].zero_()
        assert self._backward is not None
        self._backward.replay()
        return self._prompt_gradient[:rows].clone()


class _Lease:
    """Marks a graph as in use for as long as this object lives."""

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph
        graph.in_use = True

    def __del__(self) -> None:
        self.graph.in_use = False


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prompts: Tensor, graph: _Graph, packed: Tensor, rows: int) -> Tensor:
        ctx.lease = _Lease(graph)
        return graph.forward(packed, prompts, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.lease is None:
            raise RuntimeError("the activations of a captured pass are gone after its first backward pass")
        lease, ctx.lease = ctx.lease, None
        return lease.graph.backward(output_gradient), None, None, None


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """Capture what the block launches. Unlike `torch.cuda.graph`, do not return cached memory to the device."""
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # the failed capture is expected to end with an error
            graph.capture_end()
        raise
    graph.capture_end()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector, which must not free device memory during a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def round_up_rows(rows: int) -> int:
    """Round up to the next of `HEIGHT_STEPS` steps between powers of two."""
    step = max(1, (1 << (rows - 1).bit_length()) // (2 * HEIGHT_STEPS))
    return -(-rows // step) * step
