"""A backbone and its subspace in an API process; `Models` loads them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import ipt
from app.settings import ServedBackbone, Settings
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.loading import load_backbone_and_subspace


class Model:
    """One backbone and one subspace; until both are loaded, `predictor` raises an error that tells callers to retry."""

    def __init__(
        self,
        served: ServedBackbone,
        settings: Settings,
        check_loaded: Callable[[], None],
        device_lock: threading.Lock,
    ) -> None:
        """`check_loaded` raises UnavailableError until `load` has returned; models on one device share the lock."""
        self._served = served
        self._settings = settings
        self._check_loaded = check_loaded
        self._device_lock = device_lock
        self._predictor: ipt.Predictor | None = None

    def load(self, library: SubspaceLibrary) -> float:
        """Load both, and return how many seconds that took.

        Raises:
            BackboneError, SubspaceError: the backbone or the subspace cannot be loaded.
        """
        served, settings, start = self._served, self._settings, time.monotonic()
        backbone, subspace = load_backbone_and_subspace(
            served.backbone, served.subspace, revision=served.revision, device=settings.device
        )
        self._predictor = ipt.Predictor(backbone, subspace, prompt_bytes=settings.predict_prompt_bytes, library=library)
        return time.monotonic() - start

    @property
    def family(self) -> ipt.Family | None:
        """The family of the backbone, None until it is loaded."""
        return None if self._predictor is None else self._predictor.backbone.family

    @property
    def predictor(self) -> ipt.Predictor:
        """The predictor on the loaded backbone and subspace.

        Raises:
            UnavailableError: the models are still loading, or could not be loaded.
        """
        self._check_loaded()
        return self.loaded

    @property
    def loaded(self) -> ipt.Predictor:
        """The predictor, once `load` has returned, while the other models of the process may still be loading."""
        assert self._predictor is not None
        return self._predictor

    @contextmanager
    def device_turn(self) -> Iterator[None]:
        """Use the model within the context, on a GPU as the only thread: two must not use a CUDA graph at once."""
        with self._device_lock if self.predictor.backbone.device.type == "cuda" else nullcontext():
            yield

    def new_generation_engine(self, batch_rows: int) -> ipt.GenerationEngine:
        """Return a new generation engine on the loaded backbone and subspace.

        Raises:
            UnavailableError: as `predictor` does.
            BackboneError: the backbone does not generate text.
        """
        predictor, settings = self.predictor, self._settings
        return ipt.GenerationEngine(
            predictor.backbone,
            predictor.subspace,
            batch_rows=batch_rows,
            prompt_cache_bytes=settings.generate_prompt_cache_bytes,
        )
