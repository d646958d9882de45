"""The folders of the subspaces that this package ships: one for each packaged backbone, and earlier defaults."""

from importlib.resources import files
from pathlib import Path

from ipt.subspace.manifest import MANIFEST_FILE, read_manifest


def shipped_folders() -> list[Path]:
    """Return the folder of the default subspace, then those of other backbones, then those of earlier defaults."""
    return [*_current_folders(), *sorted(path.parent for path in _package().glob(f"earlier/*/{MANIFEST_FILE}"))]


def default_folder(weights_sha256: str | None = None) -> Path:
    """Return the folder of the subspace that is used by default on a backbone with these weights.

    It is the folder of the default backbone's subspace if None, or if the package ships no subspace for the weights.
    """
    folders = _current_folders()
    for folder in folders if weights_sha256 is not None else []:
        if read_manifest(folder / MANIFEST_FILE)["backbone"]["weights_sha256"] == weights_sha256:
            return folder
    return folders[0]


def _current_folders() -> list[Path]:
    default = _package() / "default"
    others = sorted(path.parent for path in _package().glob(f"*/{MANIFEST_FILE}"))
    return [default, *(folder for folder in others if folder != default)]


def _package() -> Path:
    return Path(str(files("ipt.subspace")))
