"""What went wrong in a tuning step, told apart by what there is to do about it."""

import torch

from app.errors import ErrorDetail
from ipt.errors import DatasetError, IptError
from ipt.runtime.memory import is_out_of_memory

INTERNAL = ErrorDetail(
    message="The adaptation stopped at an internal error each time it was tried.",
    type="internal_error",
    param=None,
    code="internal_error",
)
OUT_OF_MEMORY = ErrorDetail(
    message="The adaptation does not fit into the worker's memory even alone: "
    "use a smaller batch_size, fewer restarts, or shorter examples.",
    type="internal_error",
    param=None,
    code="out_of_memory",
)


class DeviceLostError(Exception):
    """The accelerator answers with errors alone from now on; only a new process gets it back."""


def is_device_lost(error: BaseException) -> bool:
    """Whether every later call to the device would fail as well, as after an illegal memory access."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def refused(error: IptError) -> ErrorDetail:
    """The error body of what the core refuses on purpose: trying it again would end the same."""
    code = "invalid_dataset" if isinstance(error, DatasetError) else "adaptation_refused"
    return ErrorDetail(message=error.message, type="validation_error", param=error.param, code=code)


def unforeseen(error: BaseException) -> ErrorDetail:
    """The error body for when the last attempt has gone wrong; it quotes nothing of the error itself."""
    return OUT_OF_MEMORY if is_out_of_memory(error) else INTERNAL
