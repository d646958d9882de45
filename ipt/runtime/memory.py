"""How much fits into the memory of a device, what it looks like when something did not, and what is done with it."""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch

CPU_POSITIONS = 8192
"""Positions of one pass with gradients on a CPU, which gains nothing by more."""
SHARE_OF_FREE = 0.5
"""The rest is for what else runs there, and for what fragments of freed memory cost."""
SHARE_FOR_GRAPHS = 0.125
"""Of all memory, for what passes with gradients hold as CUDA graphs."""
FLOATS_PER_LAYER = 17
"""Activations that a layer keeps for the way back, in hidden sizes a position, attention weights not among them.

Source: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", arXiv 2205.05198, 4.1.
"""
_OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory"),  # the CPU's allocator
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),  # CUDA past PyTorch's
)
KEPT_BYTES = 2**30
"""Freed memory that a process keeps at most, beside what holes between pieces in use cost anyhow."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


class MeasuredModel(Protocol):
    """What an estimate needs to know of a model."""

    hidden_size: int

    @property
    def layer_count(self) -> int:
        """Layers of the whole model: of a seq2seq model, the encoder's and the decoder's."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


def keep_freed_memory() -> bool:
    """Have the C library keep the memory of freed tensors for the next ones, in the whole process and from now on.

    By itself glibc gives large pieces back to the system, which has to clear every page of the next one: on a CPU, a
    tenth of a model's time. For a process that does little else; a library leaves it to its program.

    Returns:
        Whether there is a C library that knows of it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; Windows, where nothing is linked by no name
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less at a time may help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


def positions_with_gradients(model: MeasuredModel) -> int:
    """Positions that one forward and backward pass may have, from the memory that the device has free."""
    if model.device.type != "cuda":
        return CPU_POSITIONS
    return _free_floats(model) // _floats_with_gradients(model)


def positions_without_gradients(model: MeasuredModel) -> int:
    """The same of a forward pass alone, which keeps one layer's activations at a time."""
    if model.device.type != "cuda":
        return CPU_POSITIONS
    return _free_floats(model) // (FLOATS_PER_LAYER * model.hidden_size)


def positions_of_graphs(model: MeasuredModel) -> int:
    """Positions of all passes with gradients that are kept as CUDA graphs, together."""
    _, total = torch.cuda.mem_get_info(model.device)
    return int(SHARE_FOR_GRAPHS * total) // model.dtype.itemsize // _floats_with_gradients(model)


def _floats_with_gradients(model: MeasuredModel) -> int:
    """What a position keeps for the way back."""
    return FLOATS_PER_LAYER * model.layer_count * model.hidden_size


def _free_floats(model: MeasuredModel) -> int:
    free, _ = torch.cuda.mem_get_info(model.device)
    # Of tensors that were freed, PyTorch keeps the memory for the next ones.
    kept = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return int(SHARE_OF_FREE * (free + kept)) // model.dtype.itemsize
