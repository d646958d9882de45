"""Classes of unit vectors: what a readout is fitted to in tests."""

import torch
from torch.nn import functional as F

C, H, PER_CLASS = 4, 24, 12


def clusters(spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit vectors [N, H] around C centres, and their classes [N]."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(C, H, generator=generator), dim=1)
    classes = torch.arange(C).repeat(PER_CLASS)
    rows = centres[classes] + spread * torch.randn(len(classes), H, generator=generator)
    return F.normalize(rows, dim=1), classes
