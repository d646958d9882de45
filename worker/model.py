"""The backbone and the subspace of this process, loaded once, and the engines made from them."""

import logging
import time

import ipt
from app.settings import Settings
from ipt.subspace.loading import load_backbone_and_subspace
from worker import metrics

log = logging.getLogger(__name__)


class Core:
    """Loads when told to, so that a process is up before its weights are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts: tuple[ipt.Backbone, ipt.Subspace] | None = None

    @property
    def loaded(self) -> bool:
        """Whether `load` has been through."""
        return self._parts is not None

    def load(self) -> tuple[ipt.Backbone, ipt.Subspace]:
        """The backbone and the subspace, loaded by the first call.

        Raises:
            BackboneError, SubspaceError: what the settings name cannot be loaded.
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

    def engine(self) -> ipt.TuningEngine:
        """A new engine without jobs."""
        return ipt.TuningEngine(*self.load())
