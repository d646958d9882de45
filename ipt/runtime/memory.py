"""Device memory limits and out-of-memory detection, and how a process reuses freed memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch

CPU_POSITIONS = 8192
"""Positions of one pass on a CPU, which is not faster with more."""
SHARE_OF_FREE = 0.5
"""Share of the free memory that one pass may use; the rest is for other processes and for fragmentation."""
SHARE_FOR_GRAPHS = 0.125
"""Share of the total memory that CUDA graphs with gradients may hold."""
FLOATS_PER_LAYER = 17
"""Activations that a layer keeps for the backward pass, as a multiple of the hidden size per position.

Without attention weights. Source: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models",
arXiv 2205.05198, section 4.1.
"""
_OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory"),  # the CPU's allocator
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),  # CUDA libraries
)
KEPT_BYTES = 2**30
"""Most freed memory that a process keeps, apart from fragmentation."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


class MeasuredModel(Protocol):
    """The properties of a model that a memory estimate depends on."""

    hidden_size: int

    @property
    def layer_count(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


def keep_freed_memory() -> bool:
    """Make glibc keep the memory of freed tensors in the whole process, and return whether this is possible.

    By default glibc returns large blocks to the system, which must clear every page of the next block: a tenth of a
    model's time on a CPU. Call this from a program, not from a library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, or Windows, where CDLL takes no None
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory of a device a process may still take, None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = []
    with suppress(OSError, ValueError, StopIteration):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError, StopIteration):  # no limit of a container
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(next(line for line in statistics if line.startswith("inactive_file ")).split()[1])
        limits.append(int((group / "memory.max").read_text(encoding="ascii")) - used + cached)
    return min(limits, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that memory ran out, so that a smaller batch may work."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


def positions_with_gradients(model: MeasuredModel) -> int:
    """Return the most positions of one forward and backward pass in the device's free memory."""
    if model.device.type != "cuda":
        return CPU_POSITIONS
    return _free_floats(model) // _floats_with_gradients(model)


def positions_without_gradients(model: MeasuredModel) -> int:
    """Return the most positions of one forward pass, which keeps the activations of one layer at a time."""
    if model.device.type != "cuda":
        return CPU_POSITIONS
    return _free_floats(model) // (FLOATS_PER_LAYER * model.hidden_size)


def positions_of_graphs(model: MeasuredModel) -> int:
    """Return the most positions that all CUDA graphs with gradients may have together."""
    _, total = torch.cuda.mem_get_info(model.device)
    return int(SHARE_FOR_GRAPHS * total) // model.dtype.itemsize // _floats_with_gradients(model)


def _floats_with_gradients(model: MeasuredModel) -> int:
    """Return the activations that one position keeps for the backward pass."""
    return FLOATS_PER_LAYER * model.layer_count * model.hidden_size


def _free_floats(model: MeasuredModel) -> int:
    free, _ = torch.cuda.mem_get_info(model.device)
    # PyTorch caches the memory of freed tensors and can use it again.
    cached = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return int(SHARE_OF_FREE * (free + cached)) // model.dtype.itemsize
