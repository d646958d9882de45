"""How many threads PyTorch computes with on the CPU."""

from __future__ import annotations

import torch

BESIDE_A_GPU = 2


def limit_cpu_threads(device: torch.device) -> None:
    """Have the CPU's part computed by few threads where a GPU does the rest, in the whole process.

    What is left for the CPU there are readouts and batches, products so small that waking a thread for each core takes
    longer than they do (docs/decisions/0027). For a process that does little else; a library leaves it to its program.
    """
    if device.type == "cuda":
        torch.set_num_threads(min(torch.get_num_threads(), BESIDE_A_GPU))
