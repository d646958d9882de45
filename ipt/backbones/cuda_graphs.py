"""Passes of a small encoder as CUDA graphs: on a GPU their launches, one by one, take several times their work.

A pass is captured for one shape, with or without the way back to its prompts. Batches are filled up to a few shapes, a
shape is captured when it has come a few times, and those not used for longest are given up for new ones.
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
"""Packed rows [B, 2 + T] and their prompts [B, P, H], or none, to embeddings [B, H]; all on the device."""

CAPTURED_AFTER = 5
"""Passes of a shape before the one that is captured, which costs about as much as these."""
MOST_GRAPHS = 48
"""Without gradients they share their memory."""
WIDTH_STEP = 16
HEIGHT_STEPS = 8
"""Steps of the number of rows between a power of two and the next: at most an eighth is filled up."""
LAUNCHES = 3
"""How many times the positions that a layer is launched for (`launch_bound_positions`) a graph may have."""


@dataclass(frozen=True)
class _Shape:
    height: int
    width: int
    prompt: tuple[int, int, torch.dtype] | None
    with_gradient: bool

    @property
    def positions(self) -> int:
        return self.height * (self.width + (self.prompt[0] if self.prompt else 0))


class GraphedPasses:
    """The graphs of one function of a model that stays as and where it is; one thread may use them at a time.

    Args:
        device: where the model is.
        launch_bound: positions that a layer of the model is launched for (`launch_bound_positions`).
        with_gradients: most positions of all graphs with gradients together: each keeps the activations of its pass.
    """

    def __init__(self, device: torch.device, launch_bound: int, with_gradients: int) -> None:
        self._device = device
        self._most_positions = LAUNCHES * launch_bound
        self._most_with_gradients = with_gradients
        self._seen: Counter[_Shape] = Counter()
        self._graphs: OrderedDict[_Shape, _Graph] = OrderedDict()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def prepared(
        self, function: Pass, rows: int, tokens: int, prompts: Tensor | None
    ) -> tuple[_Graph | None, int, int]:
        """The graph for a batch of these rows and tokens a row, and the rows and tokens that it is to be filled up to.

        None, and the sizes as they are, where it is better launched one by one.
        """
        alone = None, rows, tokens
        with_gradient = prompts is not None and prompts.requires_grad and torch.is_grad_enabled()
        height, width = _filled_up(rows), -(-tokens // WIDTH_STEP) * WIDTH_STEP
        prompt = None if prompts is None else (prompts.shape[1], prompts.shape[2], prompts.dtype)
        shape = _Shape(height, width, prompt, with_gradient)
        if shape.positions > min(self._most_positions, self._most_with_gradients):
            return alone
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            # Its activations wait for their way back: another pass of the shape would overwrite them.
            return alone if graph.in_use else (graph, height, width)
        self._seen[shape] += 1
        if self._seen[shape] <= CAPTURED_AFTER:
            return alone
        self._make_room(shape)
        graph = self._capture(function, shape) or self._capture(function, shape)
        if graph is None:
            self._most_positions //= 2
            self._seen.clear()  # so that no shape is tried again at once
            return alone
        self._graphs[shape] = graph
        return graph, height, width

    def _make_room(self, coming: _Shape) -> None:
        """Give up those not used for longest. What is in use lives on until its way back is done."""
        alike = [shape for shape in self._graphs if shape.with_gradient == coming.with_gradient]
        while alike and (
            sum(shape.positions for shape in alike) + coming.positions > self._most_with_gradients
            if coming.with_gradient
            else len(alike) >= MOST_GRAPHS
        ):
            unused = alike.pop(0)
            del self._graphs[unused], self._seen[unused]
            if coming.with_gradient:  # a pool of its own, which goes to nobody else before this
                torch.cuda.empty_cache()

    def _capture(self, function: Pass, shape: _Shape) -> _Graph | None:
        """The graph, or none where memory ran out, with that of all others given back."""
        try:
            return self._captured(function, shape)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what was captured so far
        self._graphs.clear()
        self._pool = None  # none of its graphs is left, and it does not outlive them
        torch.cuda.empty_cache()
        return None

    def _captured(self, function: Pass, shape: _Shape) -> _Graph:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if not shape.with_gradient and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        # Outside of inference mode: its tensors could not be written to later, outside of it.
        with (
            torch.cuda.stream(self._stream),
            torch.inference_mode(False),
            torch.set_grad_enabled(shape.with_gradient),
            _no_collection(),
        ):
            graph = _Graph(function, shape, self._device, None if shape.with_gradient else self._pool)
        here.wait_stream(self._stream)
        return graph


class _Graph:
    """A captured pass of one shape, and the tensors that it reads and writes. Made on a stream of its own."""

    def __init__(self, function: Pass, shape: _Shape, device: torch.device, pool: Any) -> None:
        self.in_use = False
        self._packed = torch.zeros(shape.height, 2 + shape.width, dtype=torch.long, device=device)
        self._packed[:, 0] = 1
        self._prompts: Tensor | None = None
        if shape.prompt is not None:
            length, hidden_size, dtype = shape.prompt
            self._prompts = torch.zeros(shape.height, length, hidden_size, dtype=dtype, device=device)
        leaf = self._prompts.requires_grad_() if shape.with_gradient and self._prompts is not None else None
        # Libraries set themselves up for the stream in a first pass, which cannot be captured.
        found = function(self._packed, self._prompts)
        if leaf is not None:
            torch.autograd.grad(found, leaf, torch.zeros_like(found))
        del found
        self._forward = torch.cuda.CUDAGraph()
        with _capturing(self._forward, pool):
            self._found = function(self._packed, self._prompts)
        self._back: torch.cuda.CUDAGraph | None = None
        if leaf is not None:
            self._of_found = torch.zeros_like(self._found)
            self._back = torch.cuda.CUDAGraph()
            with _capturing(self._back, self._forward.pool()):
                (self._of_prompts,) = torch.autograd.grad(self._found, leaf, self._of_found)
        self._found = self._found.detach()

    def __call__(self, packed: Tensor, prompts: Tensor | None, rows: int) -> Tensor:
        """[rows, H] of packed rows [B, 2 + T] in pinned memory, of which the first `rows` count."""
        if self._back is None:
            return self.forward(packed, prompts, rows)
        found: Tensor = _Replay.apply(prompts, self, packed, rows)  # type: ignore[no-untyped-call]
        return found

    @torch.no_grad()
    def forward(self, packed: Tensor, prompts: Tensor | None, rows: int) -> Tensor:
        """The same, without a way back."""
        self._packed.copy_(packed, non_blocking=True)
        if self._prompts is not None and prompts is not None:
            self._prompts[:rows].copy_(prompts)
        self._forward.replay()
        return self._found[:rows].clone()

    @torch.no_grad()
    def back(self, of_found: Tensor) -> Tensor:
        """The gradients of the prompts [rows, P, H], from those of what was found [rows, H]."""
        rows = len(of_found)
        self._of_found[:rows].copy_(of_found)
        self._of_found[rows:].zero_()
        assert self._back is not None
        self._back.replay()
        return self._of_prompts[:rows].clone()


class _Lease:
    """A graph in use, for as long as anything holds this."""

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
    def backward(ctx: Any, of_found: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.lease is None:
            raise RuntimeError("the activations of a captured pass are gone after its first way back")
        lease, ctx.lease = ctx.lease, None
        return lease.graph.back(of_found), None, None, None


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """Capture what the current stream is given. `torch.cuda.graph` would give all cached memory back to the device."""
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # that nothing can be made of what was captured is known
            graph.capture_end()
        raise
    graph.capture_end()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector: what it frees of a device must not be freed while something is captured."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _filled_up(rows: int) -> int:
    """The number of rows, up to the next of `HEIGHT_STEPS` steps between powers of two."""
    step = max(1, (1 << (rows - 1).bit_length()) // (2 * HEIGHT_STEPS))
    return -(-rows // step) * step
