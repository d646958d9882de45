"""The backbones and the subspaces of this process, and the engines that use them."""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass

import ipt
from app.settings import Settings
from ipt.backbones.loading import check_memory
from ipt.errors import SubspaceError
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.loading import load_backbone_and_subspace
from worker import metrics
from worker.liveness import LivenessFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The backbones of the settings, each with its subspace, and the library of further subspaces."""

    pairs: list[tuple[ipt.Backbone, ipt.Subspace]]
    library: SubspaceLibrary

    @property
    def subspaces(self) -> list[ipt.Subspace]:
        """The subspace of each backbone."""
        return [subspace for _, subspace in self.pairs]

    @property
    def text_subspace(self) -> ipt.Subspace:
        """The subspace for text-to-text adaptations that name none: of the first backbone that writes, if any."""
        writers = (subspace for backbone, subspace in self.pairs if backbone.family != "encoder")
        return next(writers, self.subspaces[0])

    def backbone_of(self, subspace_id: str) -> ipt.Backbone:
        """Return the backbone of a subspace that this process has."""
        own = {subspace.id: backbone for backbone, subspace in self.pairs}
        return own.get(subspace_id) or next(
            backbone for backbone, _ in self.pairs if subspace_id in self.library.ids_for(backbone)
        )


class LazyModel:
    """Loads the backbones and subspaces on first use, so that a process can start before its weights are loaded.

    `load` loads the subspaces of the settings. Those of the library are loaded for adaptations that name one.
    """

    def __init__(self, settings: Settings, liveness: LivenessFile | None = None) -> None:
        """`liveness` is touched while the model loads, which may take any time."""
        self._settings = settings
        self._liveness = liveness
        self._models: LoadedModels | None = None
        self._subspaces: dict[str, ipt.Subspace] = {}
        self._unusable: set[str] = set()

    @property
    def loaded(self) -> bool:
        """Whether `load` has succeeded."""
        return self._models is not None

    def load(self) -> LoadedModels:
        """Return the backbones and their subspaces; the first call loads them.

        Raises:
            BackboneError, SubspaceError: a backbone or a subspace of the settings cannot be loaded, or memory does not
                suffice for all of them.
        """
        if self._models is None:
            began = time.monotonic()
            settings = self._settings
            served = settings.served_backbones
            if len(served) > 1:
                check_memory([(each.backbone, each.revision) for each in served], settings.device)
            with self._liveness.keep_touching() if self._liveness else nullcontext():
                pairs = [
                    load_backbone_and_subspace(
                        each.backbone, each.subspace, revision=each.revision, device=settings.device
                    )
                    for each in served
                ]
            self._models = LoadedModels(pairs, SubspaceLibrary(settings.earlier_subspace_folders))
            self._subspaces = {subspace.id: subspace for subspace in self._models.subspaces}
            metrics.MODEL_LOADED.set(1)
            ids = ",".join(self._subspaces)
            log.info("core_loaded subspace=%s seconds=%.1f", ids, time.monotonic() - began)
        return self._models

    def subspace_ids(self) -> list[str]:
        """Return the ids of the subspaces in which this process can tune, those of the settings first."""
        models = self.load()
        own = [subspace.id for subspace in models.subspaces]
        further = {subspace_id for backbone, _ in models.pairs for subspace_id in models.library.ids_for(backbone)}
        return [*own, *sorted(further - self._unusable - set(own))]

    def subspace(self, subspace_id: str) -> ipt.Subspace:
        """Return one of the subspaces in `subspace_ids`; the first call loads it.

        Raises:
            SubspaceError: its files are damaged or gone; `subspace_ids` no longer lists it.
        """
        models = self.load()
        if subspace_id not in self._subspaces:
            try:
                subspace = models.library.load(subspace_id, models.backbone_of(subspace_id))
            except SubspaceError:
                self._unusable.add(subspace_id)
                raise
            assert subspace is not None
            self._subspaces[subspace_id] = subspace
        return self._subspaces[subspace_id]

    def new_engine(self, subspace_id: str) -> ipt.TuningEngine:
        """Return a new engine without jobs, which tunes in this subspace; raises what `subspace` does."""
        return ipt.TuningEngine(self.load().backbone_of(subspace_id), self.subspace(subspace_id))
