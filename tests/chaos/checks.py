"""The checks after a chaos run: each accepted adaptation succeeded exactly once, with the right vector."""

from collections import Counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from sqlalchemy import select

import ipt
from app.db.models import FINISHED, Adaptation, AdaptationEvent, Task, TaskVersion
from app.db.session import transaction
from ipt.tuning.tuning_loop import TuningLoop
from tests.chaos.client import DISTINCT, hyperparameters, tenant_of
from tests.chaos.processes import Service
from tests.chaos.result import Result
from tests.support.jobs import EXAMPLES
from tests.support.tuned import never_keep_the_start

# Reasons of requeue events that do not count an attempt.
_UNCOUNTED = ("worker_stopped", "made_way")


def check_adaptations(service: Service, accepted: dict[int, set[str]], result: Result) -> None:
    """Check that each accepted adaptation exists and finished once, and that no other adaptation exists."""
    with transaction(service.engine) as session:
        rows = {row.id: row for row in session.scalars(select(Adaptation))}
        tasks = set(session.scalars(select(Task.id)))
        versions = Counter(session.scalars(select(TaskVersion.adaptation_id)))
        histories: dict[str, list[AdaptationEvent]] = {}
        for event in session.scalars(select(AdaptationEvent).order_by(AdaptationEvent.seq)):
            histories.setdefault(event.adaptation_id, []).append(event)
    for number in range(result.adaptations):
        ids = accepted.get(number, set())
        result.lost += [f"{number}: never accepted"] if not ids else []
        result.lost += [f"{number}: {id_} was accepted and does not exist" for id_ in ids if id_ not in rows]
        result.duplicated += [f"{number}: accepted as {sorted(ids)}"] if len(ids) > 1 else []
    numbers = Counter(row.metadata_["number"] for row in rows.values())
    result.duplicated += [f"{number}: {count} adaptations" for number, count in numbers.items() if count > 1]
    result.duplicated += [f"{len(tasks)} tasks of {len(rows)} adaptations"] if len(tasks) != len(rows) else []
    for row in rows.values():
        _check_adaptation(row, histories.get(row.id, []), versions[row.id], result)


def _check_adaptation(row: Adaptation, history: list[AdaptationEvent], versions: int, result: Result) -> None:
    types = Counter(event.type for event in history)
    finished = sum(types[state] for state in FINISHED)
    if row.state != "succeeded":
        result.lost.append(f"{row.id} {row.state}: {row.error}")
    if finished > 1 or versions > 1:
        result.duplicated.append(f"{row.id}: {finished} final events, {versions} task versions")
    if finished < 1 or versions < 1:
        result.lost.append(f"{row.id}: {finished} final events, {versions} task versions")
    if [event.seq for event in history] != list(range(1, len(history) + 1)):
        result.errors.append(f"{row.id}: events are numbered {[event.seq for event in history]}")
    if history and history[-1].type != row.state:
        result.errors.append(f"{row.id}: the last event is {history[-1].type}")
    if row.tenant_id != tenant_of(int(row.metadata_["number"])):
        result.errors.append(f"{row.id}: belongs to tenant {row.tenant_id}")
    if row.lease_token is not None or row.checkpoint is not None:
        result.errors.append(f"{row.id}: has finished and keeps its lease or checkpoint")
    uncounted = sum(event.data.get("reason") in _UNCOUNTED for event in history)
    if types["running"] - uncounted != row.attempt:
        result.errors.append(f"{row.id}: {row.attempt} attempts, {types['running']} claims, {uncounted} not counted")
    result.attempts.append(row.attempt)
    result.claims.append(types["running"])


def check_vectors(service: Service, result: Result, backbone_dir: str, subspace_dir: str) -> None:
    """Check that each stored vector equals the vector of an undisturbed run."""
    backbone = ipt.load_backbone(backbone_dir, device="cpu")
    engine = ipt.TuningEngine(backbone, ipt.load_subspace(subspace_dir, backbone))
    expected = _undisturbed_vectors(engine, min(DISTINCT, result.adaptations))
    distinct = {vector.tobytes() for vector in expected.values()}
    assert len(distinct) == len(expected), "equal vectors would hide a result stored under the wrong task"
    with transaction(service.engine) as session:
        stored = session.execute(
            select(Adaptation.metadata_, TaskVersion.vector).join(
                TaskVersion, TaskVersion.adaptation_id == Adaptation.id
            )
        ).all()
    for metadata, vector in stored:
        number = int(metadata["number"])
        if not np.allclose(np.asarray(vector), expected[number % DISTINCT], rtol=1e-4, atol=1e-5):
            result.errors.append(f"{number}: the vector differs from that of an undisturbed run")


def _undisturbed_vectors(engine: ipt.TuningEngine, count: int) -> dict[int, Any]:
    examples = [ipt.Example(**example) for example in EXAMPLES]
    for number in range(count):
        parameters = ipt.Hyperparameters(**hyperparameters(number))
        engine.add(ipt.TuningJob(str(number), examples, "classification", None, parameters))
    vectors: dict[int, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for a tiny model, more threads wait for each other longer than they compute
    with mock.patch.object(TuningLoop, "record_validation", never_keep_the_start):
        while engine.job_ids:
            for done in [progress for progress in engine.step() if progress.done]:
                vectors[int(done.job_id)] = engine.finish(done.job_id).head.vector
    torch.set_num_threads(threads)
    return vectors
