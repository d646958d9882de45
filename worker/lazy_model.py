"""The backbone and the subspaces of this process, and the engines that use them."""

import logging
import time
from contextlib import nullcontext

import ipt
from app.settings import Settings
from ipt.errors import SubspaceError
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.loading import load_backbone_and_subspace
from worker import metrics
from worker.liveness import LivenessFile

log = logging.getLogger(__name__)


class LazyModel:
    """Loads the backbone and subspaces on first use, so that a process can start before its weights are loaded.

    `load` loads the subspace of the settings. The subspaces of the library are loaded for adaptations that name one.
    """

    def __init__(self, settings: Settings, liveness: LivenessFile | None = None) -> None:
        """`liveness` is touched while the model loads, which may take any time."""
        self._settings = settings
        self._liveness = liveness
        self._parts: tuple[ipt.Backbone, ipt.Subspace] | None = None
        self._library: SubspaceLibrary | None = None
        self._subspaces: dict[str, ipt.Subspace] = {}
        self._unusable: set[str] = set()

    @property
    def loaded(self) -> bool:
        """Whether `load` has succeeded."""
        return self._parts is not None

    def load(self) -> tuple[ipt.Backbone, ipt.Subspace]:
        """Return the backbone and the subspace; the first call loads them.

        Raises:
            BackboneError, SubspaceError: the backbone or the subspace of the settings cannot be loaded.
        """
        if self._parts is None:
            began = time.monotonic()
            settings = self._settings
            with self._liveness.keep_touching() if self._liveness else nullcontext():
                self._parts = load_backbone_and_subspace(
                    settings.backbone, settings.subspace, revision=settings.backbone_revision, device=settings.device
                )
            self._subspaces[self._parts[1].id] = self._parts[1]
            self._library = SubspaceLibrary(settings.earlier_subspace_folders)
            metrics.MODEL_LOADED.set(1)
            log.info("core_loaded subspace=%s seconds=%.1f", self._parts[1].id, time.monotonic() - began)
        return self._parts

    def subspace_ids(self) -> list[str]:
        """Return the ids of the subspaces in which this process can tune, the one of the settings first."""
        backbone, subspace = self.load()
        assert self._library is not None
        further = set(self._library.ids_for(backbone)) - self._unusable - {subspace.id}
        return [subspace.id, *sorted(further)]

    def subspace(self, subspace_id: str) -> ipt.Subspace:
        """Return one of the subspaces in `subspace_ids`; the first call loads it.

        Raises:
            SubspaceError: its files are damaged or gone; `subspace_ids` no longer lists it.
        """
        backbone, _ = self.load()
        assert self._library is not None
        if subspace_id not in self._subspaces:
            try:
                subspace = self._library.load(subspace_id, backbone)
            except SubspaceError:
                self._unusable.add(subspace_id)
                raise
            assert subspace is not None
            self._subspaces[subspace_id] = subspace
        return self._subspaces[subspace_id]

    def new_engine(self, subspace_id: str) -> ipt.TuningEngine:
        """Return a new engine without jobs, which tunes in this subspace; raises what `subspace` does."""
        return ipt.TuningEngine(self.load()[0], self.subspace(subspace_id))
