"""The errors of the core; a service maps each class to a status."""


class IptError(Exception):
    """Base class of the errors that `ipt` raises.

    `param` names the argument or field at fault, for example ``examples[3].output``, if there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class DatasetError(IptError):
    """A dataset cannot be tuned on: too few examples, only one label, empty text, or too many labels."""


class BackboneError(IptError):
    """A backbone cannot be loaded or used: not available offline, wrong hash, or unsupported architecture."""


class SubspaceError(IptError):
    """A subspace file is missing, damaged, malicious, or of an unknown format version."""


class SubspaceMismatchError(SubspaceError):
    """A vector, checkpoint or backbone does not belong to the subspace in use."""


class CheckpointError(IptError):
    """A saved tuning state, readout or vector cannot be read."""
