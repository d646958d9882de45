"""The backbone and subspace of this process, loaded once and in the background, so that the port opens at once."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import ipt
from app.errors import UnavailableError
from app.http.error_handlers import log_unforeseen
from app.settings import Settings
from ipt.errors import IptError
from ipt.subspace.loading import load_backbone_and_subspace

log = logging.getLogger(__name__)

State = Literal["loading", "ok", "failed"]


class Model:
    """Loads in a thread of its own; until that is done, every use answers "not yet"."""

    def __init__(self, settings: Settings, on_loaded: Callable[[ipt.Subspace], None]) -> None:
        self._settings = settings
        self._on_loaded = on_loaded
        self._predictor: ipt.Predictor | None = None
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._load, name="load-model", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """How far loading is."""
        if self._failure is not None:
            return "failed"
        return "loading" if self._predictor is None else "ok"

    @property
    def failure(self) -> str | None:
        """Why loading failed."""
        return self._failure

    @property
    def family(self) -> ipt.Family | None:
        """The loaded backbone's family, None while there is none."""
        return None if self._predictor is None else self._predictor.backbone.family

    @property
    def subspace(self) -> ipt.Subspace:
        """The loaded subspace.

        Raises:
            UnavailableError: there is none yet, or there will be none.
        """
        return self._loaded().subspace

    @property
    def loaded_subspace_id(self) -> str | None:
        """The id of the subspace whose tasks can be asked, None while it loads."""
        return None if self._predictor is None else self._predictor.subspace.id

    def check_loaded(self) -> None:
        """Raise UnavailableError, as everything else here does, unless the model is loaded."""
        self._loaded()

    def bind(self, head: ipt.TaskHead) -> ipt.BoundTask:
        """Check a task against the loaded subspace, once for many predictions.

        Raises:
            UnavailableError: as `subspace` does.
            SubspaceMismatchError, CheckpointError: the task cannot be used.
        """
        return self._loaded().bind(head)

    def read(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """The tokens of each text, and whether there are too many to be read; from any thread; raises as `subspace`."""
        return self._loaded().read(texts)

    def predict(self, rows: Sequence[tuple[ipt.BoundTask, list[int]]]) -> Sequence[ipt.Prediction]:
        """Predictions for rows of any tasks, in one batch; raises as `subspace` does."""
        return self._loaded().predict(rows)

    def generation_engine(self) -> ipt.GenerationEngine:
        """A new engine that writes with the loaded backbone; raises as `subspace` does.

        Raises:
            BackboneError: the backbone writes no text.
        """
        loaded, settings = self._loaded(), self._settings
        return ipt.GenerationEngine(
            loaded.backbone,
            loaded.subspace,
            batch_rows=settings.generate_batch_rows,
            prompt_cache_bytes=settings.generate_prompt_cache_bytes,
        )

    def _load(self) -> None:
        settings = self._settings
        start = time.monotonic()
        try:
            backbone, subspace = load_backbone_and_subspace(
                settings.backbone, settings.subspace, revision=settings.backbone_revision, device=settings.device
            )
            predictor = ipt.Predictor(backbone, subspace, prompt_bytes=settings.predict_prompt_bytes)
            self._on_loaded(subspace)
        except IptError as error:
            log.error("the model cannot be loaded: %s", error.message)
            self._failure = error.message
            return
        except Exception as error:  # noqa: BLE001 - the API goes on without predictions and says so
            log_unforeseen(error)
            self._failure = f"the model cannot be loaded ({type(error).__name__}); see the log"
            return
        self._predictor = predictor
        log.info("model_loaded subspace=%s seconds=%.1f", subspace.id, time.monotonic() - start)

    def _loaded(self) -> ipt.Predictor:
        if self._failure is not None:
            raise UnavailableError(self._failure, code="model_failed", retry_after=60)
        if self._predictor is None:
            raise UnavailableError("the model is still loading", code="model_loading", retry_after=2)
        return self._predictor
