"""Tuning jobs, and running an engine until they are done."""

from collections.abc import Iterable
from typing import Any

import ipt

TOLERANCE: dict[str, Any] = {"rtol": 0.0, "atol": 2e-4}


def job(
    job_id: str, examples: list[ipt.Example], kind: ipt.TaskKind = "classification", **changes: Any
) -> ipt.TuningJob:
    """Return a short job; `changes` are hyperparameters."""
    hyperparameters: dict[str, Any] = {"steps": 12, "batch_size": 8, "learning_rate": 0.05, **changes}
    return ipt.TuningJob(job_id, examples, kind, hyperparameters=ipt.Hyperparameters(**hyperparameters))


def run(engine: ipt.TuningEngine, jobs: Iterable[ipt.TuningJob]) -> dict[str, ipt.AdaptedTask]:
    """Tune jobs together; return their tasks by job id."""
    for each in jobs:
        engine.add(each)
    return finish_all(engine)


def run_each_alone(engine: ipt.TuningEngine, jobs: Iterable[ipt.TuningJob]) -> dict[str, ipt.AdaptedTask]:
    """Tune jobs one after the other; return their tasks by job id."""
    return {each.job_id: run(engine, [each])[each.job_id] for each in jobs}


def finish_all(engine: ipt.TuningEngine) -> dict[str, ipt.AdaptedTask]:
    """Advance the engine until it is empty; return the tasks by job id."""
    tasks: dict[str, ipt.AdaptedTask] = {}
    while engine.job_ids:
        tasks |= {report.job_id: engine.finish(report.job_id) for report in engine.step() if report.done}
    return tasks
