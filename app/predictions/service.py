"""From task ids and texts to answers: resolve the tasks, check them, and let the batcher compute."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

import ipt
from app.db.models import TaskVersion
from app.db.session import transaction
from app.errors import ConflictError, NotFoundError
from app.predictions import repository
from app.predictions.batcher import Answer, Batcher, Row
from app.predictions.bound_tasks import BoundTasks, TaskKey
from app.predictions.model import Model
from app.settings import Settings
from ipt.errors import IptError, SubspaceMismatchError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """One text for one task; `version` None asks the newest. `param` is where the caller named the task."""

    task_id: str
    version: int | None
    text: str
    param: str | None


class Predictions:
    """Answers for all tasks of all tenants, in this process."""

    def __init__(self, settings: Settings, engine: Engine, model: Model) -> None:
        self._settings = settings
        self._engine = engine
        self._model = model
        self._tasks = BoundTasks(settings.predict_cached_tasks)
        self._batcher = Batcher(
            model.predict,
            wait_seconds=settings.predict_wait_ms / 1000,
            batch_rows=settings.predict_batch_rows,
            batch_tokens=settings.predict_batch_tokens,
            queue_rows=settings.predict_queue_rows,
        )

    @property
    def model(self) -> Model:
        """The model behind the answers."""
        return self._model

    @property
    def loaded_subspace_id(self) -> str | None:
        """The subspace whose tasks can be asked, None while it loads."""
        return self._model.subspace.id if self._model.state == "ok" else None

    async def ask(self, tenant_id: str, questions: Sequence[Question]) -> tuple[list[TaskKey], Answer]:
        """Answer each question, and say which version of its task did.

        Raises:
            NotFoundError: a task or version that the tenant does not have.
            ConflictError: a task that has not been tuned yet, or was tuned in another subspace than is loaded.
            BusyError, UnavailableError: not now.
        """
        arrived_at = time.monotonic()
        keys, rows = await run_in_threadpool(self._prepare, tenant_id, questions)
        answered = self._batcher.submit(rows, self._model.subspace.prompt_length, arrived_at)
        return keys, await asyncio.wrap_future(answered)

    def resolve(self, tenant_id: str, questions: Sequence[Question]) -> tuple[list[TaskKey], list[ipt.BoundTask]]:
        """Each question's task; raises as `ask` does.

        The database is asked every time, for a task may have been deleted or tuned again.
        """
        self._model.check_loaded()
        ids = {question.task_id for question in questions}
        with transaction(self._engine) as session:
            rows: list[TaskVersion] = []
            if self._tasks.knows_any(ids):
                known = repository.newest_versions(session, tenant_id, ids)
            else:  # at once, then, and not one after the other
                known, rows = repository.newest(session, tenant_id, ids)
            keys = [_version_of(question, known.get(question.task_id)) for question in questions]
            tasks = {key: task for key in set(keys) if (task := self._tasks.get(key)) is not None}
            rows_by_key = {(row.task_id, row.version): row for row in rows}
            others = set(keys) - tasks.keys() - rows_by_key.keys()
            rows_by_key |= {(row.task_id, row.version): row for row in repository.versions(session, tenant_id, others)}
        for key, question in zip(keys, questions, strict=True):
            if key not in tasks:
                tasks[key] = self._bind(rows_by_key.get(key), question)
                self._tasks.put(key, tasks[key])
        return keys, [tasks[key] for key in keys]

    def close(self) -> None:
        """Stop answering."""
        self._batcher.close()

    def _prepare(self, tenant_id: str, questions: Sequence[Question]) -> tuple[list[TaskKey], list[Row]]:
        keys, tasks = self.resolve(tenant_id, questions)
        ids = self._model.tokenize([question.text for question in questions])
        return keys, list(zip(tasks, ids, strict=True))

    def _bind(self, row: TaskVersion | None, question: Question) -> ipt.BoundTask:
        if row is None:
            raise NotFoundError(
                f"this task has no version {question.version} that can answer",
                code="version_not_found",
                param="version",
            )
        vector = np.asarray(row.vector, dtype=np.float32)
        head = ipt.TaskHead(vector, row.subspace_id, row.kind, tuple(row.labels), row.readout)
        try:
            return self._model.bind(head)
        except SubspaceMismatchError as error:
            raise ConflictError(error.message, code="subspace_mismatch", param=question.param) from error
        except IptError as error:
            log.error("version %d of task %s is damaged: %s", row.version, row.task_id, type(error).__name__)
            raise ConflictError(
                f"version {row.version} of this task is damaged and cannot answer: adapt the task again",
                code="task_damaged",
                param=question.param,
            ) from error


def _version_of(question: Question, known: repository.Known | None) -> TaskKey:
    if known is None:
        raise NotFoundError("there is no task with this id", code="task_not_found", param=question.param)
    if known.newest_version is None:
        raise ConflictError(
            "no adaptation of this task has succeeded yet; see GET /v1/adaptations for how far it is",
            code="task_not_ready",
            param=question.param,
        )
    return question.task_id, question.version or known.newest_version
