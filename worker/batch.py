"""A batch: the jobs that a worker tunes together, and what the database already knows about each."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

import ipt
from app.queue.claiming import ClaimedAdaptation
from app.queue.lifecycle import Lease
from worker import metrics
from worker.time_slices import TimeSlice

# Enough for a progress bar; each event is a row.
_PROGRESS_EVENTS = 20


@dataclass(slots=True)
class RunningJob:
    """A claimed adaptation in the engine.

    `checkpoint` is the last state saved from the engine, at `checkpoint_step`; `event_step` is the step of the last
    progress event; `unreported` says whether the job has advanced since the database last heard of it.
    """

    lease: Lease
    subspace_id: str
    is_retry: bool
    tuning: ipt.TuningJob
    checkpoint: bytes | None
    step: int
    steps: int
    loss: float | None
    validation: tuple[int, float] | None
    checkpoint_step: int
    event_step: int
    time_slice: TimeSlice
    unreported: bool = False

    @classmethod
    def from_claim(cls, claimed: ClaimedAdaptation) -> "RunningJob":
        """Create a job.

        Raises:
            IptError: a hyperparameter is out of range.
            TypeError: the core does not know a hyperparameter.
        """
        rows, start = claimed.validation_examples, claimed.start_vector
        return cls(
            lease=claimed.lease,
            subspace_id=claimed.subspace_id,
            is_retry=claimed.is_retry,
            tuning=ipt.TuningJob(
                job_id=claimed.lease.adaptation_id,
                examples=[ipt.Example(**row) for row in claimed.examples],
                validation_examples=None if rows is None else [ipt.Example(**row) for row in rows],
                kind=cast(ipt.TaskKind, claimed.kind),
                hyperparameters=ipt.Hyperparameters(**claimed.hyperparameters),
                initial_vectors=None if start is None else np.array([start], dtype=np.float32),
            ),
            checkpoint=claimed.checkpoint,
            step=claimed.step,
            steps=claimed.steps,
            loss=None,
            validation=None,
            checkpoint_step=claimed.step,
            event_step=claimed.step,
            time_slice=TimeSlice(claimed.step),
        )

    def record_step(self, progress: ipt.Progress) -> None:
        """Record an engine step.

        The first steps may be lower than the row's `step`: a lost worker may have reported steps after its checkpoint.
        """
        step = progress.step
        if step < self.step:
            self.checkpoint_step = self.event_step = step
            self.time_slice = TimeSlice(step)
        self.time_slice.record_step(step)
        self.step, self.steps, self.loss, self.validation = step, progress.steps, progress.loss, progress.validation
        self.unreported = True

    def record_report(self, *, with_event: bool) -> None:
        """Record that the database has the current step, and whether a progress event was stored."""
        self.unreported = False
        if with_event:
            self.event_step = self.step

    @property
    def event_due(self) -> bool:
        """Whether enough steps have passed for another progress event."""
        return self.step - self.event_step >= max(1, self.steps // _PROGRESS_EVENTS)

    @property
    def progress(self) -> dict[str, Any]:
        """The data of a progress event; a loss that is not finite becomes null, since JSON cannot hold it."""
        validated_step, validation_loss = self.validation or (None, None)
        return {
            "step": self.step,
            "steps": self.steps,
            "loss": _if_finite(self.loss),
            "validated_step": validated_step,
            "validation_loss": _if_finite(validation_loss),
        }


def _if_finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


class Batch:
    """Running jobs, and an engine for each of their subspaces."""

    def __init__(self, new_engine: Callable[[str], ipt.TuningEngine]) -> None:
        """Create an empty batch; `new_engine` gets the id of a subspace."""
        self._new_engine = new_engine
        self._engines: dict[str, ipt.TuningEngine] = {}
        self._jobs: dict[str, RunningJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(tuple(self._jobs.values()))

    @property
    def is_retry(self) -> bool:
        """Whether the batch runs a retry, which no other job may join."""
        return any(job.is_retry for job in self)

    def is_preemptible(self, slice_seconds: float) -> bool:
        """Whether every job has had its time slice; true for an empty batch."""
        return all(job.time_slice.is_over(slice_seconds) for job in self)

    def add(self, job: RunningJob) -> None:
        """Add a job, from its checkpoint if it has one; raises what the engine raises."""
        if job.subspace_id not in self._engines:
            self._engines[job.subspace_id] = self._new_engine(job.subspace_id)
        self._engine_of(job).add(job.tuning, job.checkpoint)
        self._jobs[job.lease.adaptation_id] = job

    def step(self) -> list[RunningJob]:
        """Advance every job of one subspace by one step, and return those that are done, which stay in the batch.

        Subspaces take turns, so that the duration of a step does not grow with their number.
        """
        subspace_id = next(subspace_id for subspace_id, engine in self._engines.items() if engine.job_ids)
        engine = self._engines[subspace_id] = self._engines.pop(subspace_id)  # moves it to the end
        steps = engine.step()
        metrics.count_step(len(steps))
        done = []
        for progress in steps:
            job = self._jobs[progress.job_id]
            job.record_step(progress)
            if progress.done:
                done.append(job)
        return done

    def checkpoint(self, job: RunningJob) -> None:
        """Save the job's state, from which it resumes exactly; before the first step there is no state to save."""
        job.checkpoint = self._engine_of(job).checkpoint(job.lease.adaptation_id) or None
        job.checkpoint_step = job.step

    def finish(self, job: RunningJob) -> ipt.AdaptedTask:
        """Remove a job that is done and return its result; the job is removed even if this raises."""
        try:
            return self._engine_of(job).finish(job.lease.adaptation_id)
        except BaseException:
            self._engine_of(job).remove(job.lease.adaptation_id)
            raise
        finally:
            del self._jobs[job.lease.adaptation_id]

    def remove(self, job: RunningJob) -> None:
        """Remove a job without a result."""
        self._engine_of(job).remove(job.lease.adaptation_id)
        del self._jobs[job.lease.adaptation_id]

    def abandon(self) -> list[RunningJob]:
        """Remove and return all jobs, and drop the engines without calling them: the last step may have failed."""
        jobs = list(self)
        self._jobs.clear()
        self._engines.clear()
        return jobs

    def _engine_of(self, job: RunningJob) -> ipt.TuningEngine:
        return self._engines[job.subspace_id]
