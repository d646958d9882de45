"""Look up the tasks that requests name, in one transaction for all requests that wait at the same time."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine

import ipt
from app.db.coalescer import Coalescer
from app.db.models import TaskVersion
from app.db.session import read_transaction
from app.errors import AppError, ConflictError
from app.predictions import repository
from app.predictions.answer_size import prediction_bytes
from app.predictions.canary import version_for
from app.predictions.models import Models
from app.predictions.repository import Answering, OwnedTask
from app.predictions.task_cache import BoundTasks, CachedTask, TaskKey
from app.predictions.thresholds import Thresholds
from app.tasks.errors import task_not_found_error, task_not_ready_error, version_not_found_error
from ipt.errors import IptError, SubspaceMismatchError
from ipt.readout.calibration import Calibration

QUESTIONS_PER_LOOKUP = 256
"""Most questions whose tasks are looked up in one transaction."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """One text for one task, which chooses the `version` if it is None; `param` is the field that names the task."""

    task_id: str
    version: int | None
    text: str
    param: str | None


@dataclass(frozen=True, slots=True)
class FoundTasks:
    """The task and version for each question of one request."""

    keys: list[TaskKey]
    tasks: list[ipt.BoundTask]
    prediction_bytes: list[Sequence[int]]
    """For each task `answer_size.prediction_bytes`."""
    thresholds: list[Thresholds]
    """Those of each task."""


@dataclass(frozen=True, slots=True)
class _Request:
    tenant_id: str
    questions: Sequence[Question]
    canaries: bool


class TaskLookup:
    """Reads tasks from memory or the database, and the number of the answering version from the database every time.

    The number is never cached, because any process may delete a task, tune it again or promote another version. Nor is
    whether a version exists that a request names.
    """

    def __init__(self, engine: Engine, models: Models, cached_tasks: int, cached_bytes: int) -> None:
        self._engine = engine
        self._models = models
        self._cache: BoundTasks[CachedTask] = BoundTasks(cached_tasks, cached_bytes)
        self._coalescer = Coalescer(self._find_all, name="task-lookup", most=QUESTIONS_PER_LOOKUP)

    def find(self, tenant_id: str, questions: Sequence[Question], *, canaries: bool = True) -> "Future[FoundTasks]":
        """Find the task for each question of one request; its canary may answer, unless `canaries` is false.

        Raises:
            UnavailableError: the model is not loaded.
            CoalescerClosedError: the service is stopping.

        The future raises:
            NotFoundError: the tenant has no such task, or the task no such version.
            ConflictError: the task is not tuned yet, or was tuned in another subspace than the loaded ones.
        """
        self._models.check_loaded()
        return self._coalescer.ask(_Request(tenant_id, questions, canaries), len(questions), tenant_id)

    def close(self) -> None:
        """Answer the requests that wait, and accept no more."""
        self._coalescer.close()

    def _find_all(self, requests: Sequence[_Request]) -> list[FoundTasks | Exception]:
        owned = {(request.tenant_id, question.task_id) for request in requests for question in request.questions}
        in_memory = {(tenant_id, task_id) for tenant_id, task_id in owned if self._cache.knows(task_id)}
        with read_transaction(self._engine, {request.tenant_id for request in requests}) as session:
            answering = repository.answering_numbers(session, in_memory)
            # One query returns number and row together for tasks that are not in memory.
            answering_of_others, rows = repository.answering_versions(session, owned - in_memory)
            answering |= answering_of_others
            keys_by_request = [_keys(request, answering) for request in requests]
            keys = {key for entry in keys_by_request if isinstance(entry, list) for key in entry}
            tasks = {key: task for key in keys if (task := self._cache.get(key)) is not None}
            rows_by_key = {(row.task_id, row.version): row for row in rows}
            owners = {task_id: tenant_id for tenant_id, task_id in answering}
            # What a request names by number may have been deleted since; what answers by itself was read just now.
            named = tasks.keys() - _answering_keys(answering)
            existing = repository.existing(session, {(owners[task_id], task_id, number) for task_id, number in named})
            for key in named - existing:
                del tasks[key]
            missing = keys - tasks.keys() - rows_by_key.keys()
            rows = repository.versions(session, {(owners[task_id], task_id, number) for task_id, number in missing})
            rows_by_key |= {(row.task_id, row.version): row for row in rows}
        return [
            entry if isinstance(entry, AppError) else self._bind_all(request, entry, tasks, rows_by_key, answering)
            for request, entry in zip(requests, keys_by_request, strict=True)
        ]

    def _bind_all(
        self,
        request: _Request,
        keys: list[TaskKey],
        tasks: dict[TaskKey, CachedTask],
        rows: Mapping[TaskKey, TaskVersion],
        answering: Mapping[OwnedTask, Answering],
    ) -> FoundTasks | Exception:
        """Bind the tasks that are not in `tasks` yet, and add them to it."""
        try:
            for key, question in zip(keys, request.questions, strict=True):
                if key not in tasks:
                    tasks[key] = self._bind(rows.get(key), key[1], question.param)
                    self._cache.put(key, tasks[key])
        except AppError as error:
            return error
        found = [tasks[key] for key in keys]
        return FoundTasks(
            keys,
            [entry.task for entry in found],
            [entry.prediction_bytes for entry in found],
            [answering[request.tenant_id, task_id].thresholds for task_id, _ in keys],
        )

    def _bind(self, row: TaskVersion | None, number: int, param: str | None) -> CachedTask:
        if row is None:
            raise version_not_found_error(number)
        vector = np.asarray(row.vector, dtype=np.float32)
        try:
            calibration = Calibration(*(row.calibration or ()))
            head = ipt.TaskHead(
                vector, row.subspace_id, row.kind, tuple(row.labels), row.readout, row.scope, calibration
            )
            # The first model's error says what to do about a subspace that no model has.
            model = self._models.of_subspace(row.subspace_id) or self._models.all[0]
            size = prediction_bytes(head.labels, all_labels=head.kind == "multilabel")
            return CachedTask(model.predictor.bind(head), size)
        except SubspaceMismatchError as error:
            raise ConflictError(error.message, code="subspace_mismatch", param=param) from error
        except IptError as error:
            log.error("version %d of task %s is damaged: %s", row.version, row.task_id, type(error).__name__)
            raise ConflictError(
                f"version {row.version} of this task is damaged and cannot answer: adapt the task again",
                code="task_damaged",
                param=param,
            ) from error


def _answering_keys(answering: Mapping[OwnedTask, Answering]) -> set[TaskKey]:
    """Return the versions that answer requests which name no version."""
    return {
        (task_id, number)
        for (_, task_id), candidates in answering.items()
        for number in (candidates.version, candidates.canary)
        if number is not None
    }


def _keys(request: _Request, answering: Mapping[OwnedTask, Answering]) -> list[TaskKey] | AppError:
    """Return the version that answers each question, or the error of the first question that has none."""
    keys = []
    chosen: dict[str, int] = {}
    for question in request.questions:
        owned = (request.tenant_id, question.task_id)
        if owned not in answering:
            return task_not_found_error(question.param)
        candidates = answering[owned]
        if candidates.version is None:
            return task_not_ready_error(question.param)
        number = question.version
        if number is None and question.task_id not in chosen:
            texts = [other.text for other in request.questions if other.task_id == question.task_id]
            chosen[question.task_id] = version_for(candidates, texts) if request.canaries else candidates.version
        keys.append((question.task_id, chosen[question.task_id] if number is None else number))
    return keys
