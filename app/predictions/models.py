"""All models of an API process, loaded once in the background so that the port opens at once."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal

import ipt
from app.errors import UnavailableError
from app.http.error_handlers import log_unforeseen
from app.predictions.model import Model
from app.settings import Settings
from ipt.backbones.loading import check_memory
from ipt.errors import IptError
from ipt.subspace.library import SubspaceLibrary

log = logging.getLogger(__name__)

State = Literal["loading", "ok", "failed"]


class Models:
    """Loads in its own thread; a process answers when all of its models are loaded."""

    def __init__(self, settings: Settings, on_loaded: Callable[[Sequence[ipt.Subspace]], None]) -> None:
        """Start loading; `on_loaded` runs in the loading thread before the state becomes "ok"."""
        self._settings = settings
        self._on_loaded = on_loaded
        self._failure: str | None = None
        self._by_subspace: dict[str, Model] | None = None
        lock = threading.Lock()
        self.all = [Model(served, settings, self.check_loaded, lock) for served in settings.served_backbones]
        self._thread = threading.Thread(target=self._load, name="load-model", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """The state of loading."""
        if self._failure is not None:
            return "failed"
        return "loading" if self._by_subspace is None else "ok"

    @property
    def failure(self) -> str | None:
        """Why loading failed, None if it has not."""
        return self._failure

    def check_loaded(self) -> None:
        """Raise UnavailableError unless the models are loaded."""
        if self._failure is not None:
            raise UnavailableError(self._failure, code="model_failed", retry_after=60)
        if self._by_subspace is None:
            raise UnavailableError("the model is still loading", code="model_loading", retry_after=2)

    @property
    def subspace_ids(self) -> set[str]:
        """The subspaces whose tasks this process can answer, none until the models are loaded."""
        return set(self._by_subspace or ())

    @property
    def default_subspace_ids(self) -> set[str]:
        """The subspaces in which this service tunes by default, none until the models are loaded."""
        return set() if self._by_subspace is None else {model.loaded.subspace.id for model in self.all}

    def of_subspace(self, subspace_id: str) -> Model | None:
        """Return the model that answers the tasks of a subspace; None if there is none, or it is not loaded yet."""
        return None if self._by_subspace is None else self._by_subspace.get(subspace_id)

    def of_task(self, task: ipt.BoundTask) -> Model:
        """Return the model that answers a task that `of_subspace(…).predictor` has bound."""
        if len(self.all) == 1:
            return self.all[0]
        assert self._by_subspace is not None
        return self._by_subspace[task.head.subspace_id]

    def for_kind(self, kind: ipt.TaskKind) -> Model:
        """Return the model in which tasks of this kind are tuned by default.

        An encoder classifies better and faster, and cannot write.

        Raises:
            UnavailableError: the process has several models, and they are not loaded.
        """
        if len(self.all) == 1:
            return self.all[0]
        self.check_loaded()
        return next((model for model in self.all if (model.family == "encoder") == (kind != "text2text")), self.all[0])

    def _load(self) -> None:
        settings = self._settings
        try:
            served = settings.served_backbones
            if len(served) > 1:
                check_memory([(each.backbone, each.revision) for each in served], settings.device)
            library = SubspaceLibrary(settings.earlier_subspace_folders)
            by_subspace: dict[str, Model] = {}
            for model in self.all:
                seconds = model.load(library)
                subspace_id = model.loaded.subspace.id
                by_subspace = dict.fromkeys(model.loaded.subspace_ids, model) | by_subspace | {subspace_id: model}
                log.info("model_loaded subspace=%s seconds=%.1f", subspace_id, seconds)
            self._on_loaded([model.loaded.subspace for model in self.all])
        except IptError as error:
            log.error("the model cannot be loaded: %s", error.message)
            self._failure = error.message
            return
        except Exception as error:  # noqa: BLE001 - the API keeps serving everything that needs no model
            log_unforeseen(error)
            self._failure = f"the model cannot be loaded ({type(error).__name__}); see the log"
            return
        self._by_subspace = by_subspace
