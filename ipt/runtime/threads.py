"""The number of CPU threads that PyTorch computes with."""

from __future__ import annotations

import torch

THREADS_BESIDE_GPU = 2


def limit_cpu_threads(device: torch.device) -> None:
    """Limit PyTorch's CPU threads in the whole process if a GPU does the main work.

    The CPU then computes only readouts and batches. These products are so small that waking a thread on each core takes
    longer than computing them (docs/decisions/0027). Call this from a program, not from a library.
    """
    if device.type == "cuda":
        torch.set_num_threads(min(torch.get_num_threads(), THREADS_BESIDE_GPU))
