"""Choose the device and dtype of a backbone."""

from __future__ import annotations

import torch

from ipt.errors import BackboneError

_HINT = "leave it out to use a GPU if there is one"


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return `device`, or CUDA if available and else the CPU when None.

    Raises:
        BackboneError: torch does not know the device, or this machine does not have it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = f"device {str(device)[:40]!r}"
    try:
        target = torch.device(device)
    except RuntimeError:
        raise BackboneError(f"{name} is not known to torch: {_HINT}, or give 'cpu' or 'cuda'", param="device") from None
    if target.type == "cuda":
        gpus = torch.cuda.device_count()
        if not gpus:
            raise BackboneError(f"{name}: torch finds no GPU here; {_HINT}, or give 'cpu'", param="device")
        if (target.index or 0) >= gpus:
            available = "the only GPU is 'cuda:0'" if gpus == 1 else f"the GPUs are 'cuda:0' to 'cuda:{gpus - 1}'"
            raise BackboneError(f"{name}: {available}; {_HINT}, or give 'cpu' or 'cuda'", param="device")
        return target
    try:
        torch.zeros(1, device=target).cpu()
    except Exception:  # noqa: BLE001 - the type depends on the kind of device
        raise BackboneError(f"{name} cannot be used here: {_HINT}, or give 'cpu' or 'cuda'", param="device") from None
    return target


def default_dtype(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 for a GPU that computes in it; otherwise None, for the dtype of the checkpoint."""
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        # Emulated bfloat16 is slower than the checkpoint's dtype.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
