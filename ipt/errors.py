"""The few errors that the core raises; a service maps each to its own status once."""


class IptError(Exception):
    """Base of every error that `ipt` raises on purpose.

    `param` names the argument or field at fault (for example ``examples[3].output``), where there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class DatasetError(IptError):
    """A dataset cannot be tuned on: too few examples, one label, empty text, too many labels."""


class BackboneError(IptError):
    """A backbone cannot be loaded or used: not found offline, wrong hash, unsupported architecture."""


class SubspaceError(IptError):
    """A subspace file is missing, damaged, hostile, or of an unknown format version."""


class SubspaceMismatchError(SubspaceError):
    """A vector, checkpoint or backbone belongs to another subspace than the one in use."""


class CheckpointError(IptError):
    """Saved tuning state, a readout or a vector cannot be read back."""
