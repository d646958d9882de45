"""The backbone and the subspace of this process, and the engines that use them."""

import logging
import time

import ipt
from app.settings import Settings
from ipt.subspace.loading import load_backbone_and_subspace
from worker import metrics

log = logging.getLogger(__name__)


class LazyModel:
    """Loads the backbone and the subspace on first use, so that a process can start before its weights are loaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts: tuple[ipt.Backbone, ipt.Subspace] | None = None

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
            self._parts = load_backbone_and_subspace(
                settings.backbone, settings.subspace, revision=settings.backbone_revision, device=settings.device
            )
            metrics.MODEL_LOADED.set(1)
            log.info("core_loaded subspace=%s seconds=%.1f", self._parts[1].id, time.monotonic() - began)
        return self._parts

    def new_engine(self) -> ipt.TuningEngine:
        """Return a new engine without jobs."""
        return ipt.TuningEngine(*self.load())
