"""The backbone and subspace of an API process, loaded once in the background so that the port opens at once."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import ipt
from app.errors import UnavailableError
from app.http.error_handlers import log_unforeseen
from app.settings import Settings
from ipt.errors import IptError
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.loading import load_backbone_and_subspace

log = logging.getLogger(__name__)

State = Literal["loading", "ok", "failed"]


class Model:
    """Loads in its own thread; until then, `predictor` raises an error that tells callers to retry."""

    def __init__(self, settings: Settings, on_loaded: Callable[[ipt.Subspace], None]) -> None:
        """Start loading; `on_loaded` runs in the loading thread before the state becomes "ok"."""
        self._settings = settings
        self._on_loaded = on_loaded
        self._predictor: ipt.Predictor | None = None
        self._failure: str | None = None
        self._device_lock = threading.Lock()
        self._thread = threading.Thread(target=self._load, name="load-model", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """The state of loading."""
        if self._failure is not None:
            return "failed"
        return "loading" if self._predictor is None else "ok"

    @property
    def failure(self) -> str | None:
        """Why loading failed, None if it has not."""
        return self._failure

    @property
    def family(self) -> ipt.Family | None:
        """The family of the backbone, None until it is loaded."""
        return None if self._predictor is None else self._predictor.backbone.family

    @property
    def loaded_subspace_id(self) -> str | None:
        """The id of the subspace, None until it is loaded."""
        return None if self._predictor is None else self._predictor.subspace.id

    @property
    def predictor(self) -> ipt.Predictor:
        """The predictor on the loaded backbone and subspace.

        Raises:
            UnavailableError: the model is still loading, or could not be loaded.
        """
        self.check_loaded()
        assert self._predictor is not None
        return self._predictor

    def check_loaded(self) -> None:
        """Raise UnavailableError unless the model is loaded."""
        if self._failure is not None:
            raise UnavailableError(self._failure, code="model_failed", retry_after=60)
        if self._predictor is None:
            raise UnavailableError("the model is still loading", code="model_loading", retry_after=2)

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

    def _load(self) -> None:
        settings = self._settings
        start = time.monotonic()
        try:
            backbone, subspace = load_backbone_and_subspace(
                settings.backbone, settings.subspace, revision=settings.backbone_revision, device=settings.device
            )
            library = SubspaceLibrary(settings.earlier_subspace_folders)
            predictor = ipt.Predictor(backbone, subspace, prompt_bytes=settings.predict_prompt_bytes, library=library)
            self._on_loaded(subspace)
        except IptError as error:
            log.error("the model cannot be loaded: %s", error.message)
            self._failure = error.message
            return
        except Exception as error:  # noqa: BLE001 - the API keeps serving everything that needs no model
            log_unforeseen(error)
            self._failure = f"the model cannot be loaded ({type(error).__name__}); see the log"
            return
        self._predictor = predictor
        log.info("model_loaded subspace=%s seconds=%.1f", subspace.id, time.monotonic() - start)
