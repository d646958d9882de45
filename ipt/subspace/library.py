"""Subspaces by id: those that this package has shipped, and those in other folders.

A task vector is valid only in the subspace that it was tuned in. So tasks of an earlier default go on being answered.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ipt.backbones.interface import Backbone
from ipt.subspace.manifest import MANIFEST_FILE, read_manifest
from ipt.subspace.shipped import shipped_folders
from ipt.subspace.store import load_subspace
from ipt.subspace.subspace import Subspace


class SubspaceLibrary:
    """Finds subspaces by id. Reading a manifest costs little; tensors are read by `load`."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        """Read the manifests of `folders`, then those of the packaged subspaces.

        Raises:
            SubspaceError: a folder has no readable manifest.
        """
        self._folders: dict[str, Path] = {}
        self._weights: dict[str, str] = {}
        for folder in reversed([*folders, *shipped_folders()]):
            manifest = read_manifest(folder / MANIFEST_FILE)
            subspace_id = str(manifest["subspace_id"])
            self._folders[subspace_id] = folder
            self._weights[subspace_id] = manifest["backbone"]["weights_sha256"]

    @property
    def ids(self) -> Collection[str]:
        return self._folders.keys()

    def ids_for(self, backbone: Backbone) -> list[str]:
        """Return the ids of the subspaces that were fitted on this backbone."""
        weights = backbone.identity.weights_sha256
        return sorted(subspace_id for subspace_id, fitted_on in self._weights.items() if fitted_on == weights)

    def load(self, subspace_id: str, backbone: Backbone | None = None) -> Subspace | None:
        """Return the subspace, or None if no folder has it.

        Raises:
            SubspaceError: its files are damaged.
            SubspaceMismatchError: it was fitted on another backbone.
        """
        folder = self._folders.get(subspace_id)
        return None if folder is None else load_subspace(folder, backbone)
