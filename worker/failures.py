"""Errors of tuning, classified by how the worker reacts, and the errors that callers see."""

import torch

from app.errors import ErrorDetail
from ipt.errors import DatasetError, IptError
from ipt.runtime.memory import is_out_of_memory

INTERNAL = ErrorDetail(
    message="Every attempt at this adaptation failed with an internal error. Try again; "
    "if it fails again, the worker's log has the cause.",
    type="internal_error",
    param=None,
    code="internal_error",
)
OUT_OF_MEMORY = ErrorDetail(
    message="The adaptation does not fit into the worker's memory even by itself: "
    "use a smaller batch_size, fewer restarts, or shorter examples.",
    type="internal_error",
    param=None,
    code="out_of_memory",
)


class DeviceLostError(Exception):
    """Every call to the accelerator fails from now on; only a new process can use it again."""


def is_device_lost(error: BaseException) -> bool:
    """Whether every later call to the device would fail too, as after an illegal memory access."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def rejected(error: IptError) -> ErrorDetail:
    """Return the error of an adaptation that the core rejects; another attempt would fail in the same way."""
    code = "invalid_dataset" if isinstance(error, DatasetError) else "adaptation_refused"
    return ErrorDetail(message=error.message, type="validation_error", param=error.param, code=code)


def last_attempt_failed(error: BaseException) -> ErrorDetail:
    """Return the error for a failed last attempt; it quotes nothing of `error`, which may contain examples."""
    return OUT_OF_MEMORY if is_out_of_memory(error) else INTERNAL
