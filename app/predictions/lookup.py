"""Find the tasks that requests ask: those of all requests that wait at the same time in one transaction."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine

import ipt
from app.db.coalescer import Coalescer
from app.db.models import TaskVersion
from app.db.session import transaction
from app.errors import AppError, ConflictError, NotFoundError
from app.predictions import repository
from app.predictions.bound_tasks import BoundTasks, TaskKey
from app.predictions.model import Model
from ipt.errors import IptError, SubspaceMismatchError

TOGETHER = 256
"""Questions whose tasks are looked up together."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """One text for one task; `version` None asks the newest. `param` is where the caller named the task."""

    task_id: str
    version: int | None
    text: str
    param: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """The task of each question of one request, and which version it is."""

    keys: list[TaskKey]
    tasks: list[ipt.BoundTask]


@dataclass(frozen=True, slots=True)
class _Asked:
    tenant_id: str
    questions: Sequence[Question]


class TaskLookup:
    """Reads tasks that are not in memory; which version is the newest it asks every time.

    For a task may have been deleted or tuned again, by any process.
    """

    def __init__(self, engine: Engine, model: Model, cached_tasks: int) -> None:
        self._engine = engine
        self._model = model
        self._tasks = BoundTasks(cached_tasks)
        self._coalescer = Coalescer(self._find_all, name="task-lookup", most=TOGETHER)

    def find(self, tenant_id: str, questions: Sequence[Question]) -> "Future[Found]":
        """The task of each question of one request.

        Raises (the future does):
            NotFoundError: a task or version that the tenant does not have.
            ConflictError: a task that has not been tuned yet, or was tuned in another subspace than is loaded.
            UnavailableError: the model is not loaded.
            CoalescerClosedError: the service is stopping. Both are raised at once.
        """
        self._model.check_loaded()
        return self._coalescer.ask(_Asked(tenant_id, questions), len(questions))

    def close(self) -> None:
        """Find what has been asked for, and nothing after it."""
        self._coalescer.close()

    def _find_all(self, asked: Sequence[_Asked]) -> list[Found | Exception]:
        owned = {(one.tenant_id, question.task_id) for one in asked for question in one.questions}
        in_memory = {(tenant_id, task_id) for tenant_id, task_id in owned if self._tasks.knows(task_id)}
        with transaction(self._engine) as session:
            known = repository.newest_versions(session, in_memory)
            others, rows = repository.newest(session, owned - in_memory)  # at once, and not one after the other
            known |= others
            wanted = [_keys(one, known) for one in asked]
            keys = {key for of_one in wanted if isinstance(of_one, list) for key in of_one}
            tasks = {key: task for key in keys if (task := self._tasks.get(key)) is not None}
            rows_by_key = {(row.task_id, row.version): row for row in rows}
            owners = {task_id: tenant_id for tenant_id, task_id in known}
            missing = keys - tasks.keys() - rows_by_key.keys()
            rows = repository.versions(session, {(owners[task_id], task_id, number) for task_id, number in missing})
            rows_by_key |= {(row.task_id, row.version): row for row in rows}
        return [
            of_one if isinstance(of_one, AppError) else self._found(one, of_one, tasks, rows_by_key)
            for one, of_one in zip(asked, wanted, strict=True)
        ]

    def _found(
        self,
        asked: _Asked,
        keys: list[TaskKey],
        tasks: dict[TaskKey, ipt.BoundTask],
        rows: Mapping[TaskKey, TaskVersion],
    ) -> Found | Exception:
        try:
            for key, question in zip(keys, asked.questions, strict=True):
                if key not in tasks:
                    tasks[key] = self._bind(rows.get(key), question)
                    self._tasks.put(key, tasks[key])
        except AppError as error:
            return error
        return Found(keys, [tasks[key] for key in keys])

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


def _keys(asked: _Asked, known: Mapping[repository.OwnedTask, int | None]) -> list[TaskKey] | AppError:
    """The version that answers each question of one request, or what is wrong with the first that none answers."""
    keys = []
    for question in asked.questions:
        owned = (asked.tenant_id, question.task_id)
        if owned not in known:
            return NotFoundError("there is no task with this id", code="task_not_found", param=question.param)
        newest = known[owned]
        if newest is None:
            return ConflictError(
                "no adaptation of this task has succeeded yet; see GET /v1/adaptations for how far it is",
                code="task_not_ready",
                param=question.param,
            )
        keys.append((question.task_id, question.version or newest))
    return keys
