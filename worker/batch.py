"""A batch: the jobs that one engine tunes together, and what the database already knows about each."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import ipt
from app.queue.claiming import ClaimedAdaptation
from app.queue.lifecycle import Lease
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
    is_retry: bool
    tuning: ipt.TuningJob
    checkpoint: bytes | None
    step: int
    steps: int
    loss: float | None
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
        rows = claimed.validation_examples
        return cls(
            lease=claimed.lease,
            is_retry=claimed.is_retry,
            tuning=ipt.TuningJob(
                job_id=claimed.lease.adaptation_id,
                examples=[ipt.Example(**row) for row in claimed.examples],
                validation_examples=None if rows is None else [ipt.Example(**row) for row in rows],
                kind=cast(ipt.TaskKind, claimed.kind),
                hyperparameters=ipt.Hyperparameters(**claimed.hyperparameters),
            ),
            checkpoint=claimed.checkpoint,
            step=claimed.step,
            steps=claimed.steps,
            loss=None,
            checkpoint_step=claimed.step,
            event_step=claimed.step,
            time_slice=TimeSlice(claimed.step),
        )

    def record_step(self, step: int, steps: int, loss: float | None) -> None:
        """Record an engine step.

        The first steps may be lower than the row's `step`: a lost worker may have reported steps after its checkpoint.
        """
        if step < self.step:
            self.checkpoint_step = self.event_step = step
            self.time_slice = TimeSlice(step)
        self.time_slice.record_step(step)
        self.step, self.steps, self.loss = step, steps, loss
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
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        return {"step": self.step, "steps": self.steps, "loss": loss}


class Batch:
    """An engine and its running jobs."""

    def __init__(self, new_engine: Callable[[], ipt.TuningEngine]) -> None:
        self._new_engine = new_engine
        self._engine: ipt.TuningEngine | None = None
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
        if self._engine is None:
            self._engine = self._new_engine()
        self._engine.add(job.tuning, job.checkpoint)
        self._jobs[job.lease.adaptation_id] = job

    def step(self) -> list[RunningJob]:
        """Advance every job by one step and return the jobs that are done, which stay in the batch."""
        done = []
        for progress in self._running_engine.step():
            job = self._jobs[progress.job_id]
            job.record_step(progress.step, progress.steps, progress.loss)
            if progress.done:
                done.append(job)
        return done

    def checkpoint(self, job: RunningJob) -> None:
        """Save the job's state, from which it resumes exactly; before the first step there is no state to save."""
        job.checkpoint = self._running_engine.checkpoint(job.lease.adaptation_id) or None
        job.checkpoint_step = job.step

    def finish(self, job: RunningJob) -> ipt.AdaptedTask:
        """Remove a job that is done and return its result; the job is removed even if this raises."""
        try:
            return self._running_engine.finish(job.lease.adaptation_id)
        except BaseException:
            self._running_engine.remove(job.lease.adaptation_id)
            raise
        finally:
            del self._jobs[job.lease.adaptation_id]

    def remove(self, job: RunningJob) -> None:
        """Remove a job without a result."""
        self._running_engine.remove(job.lease.adaptation_id)
        del self._jobs[job.lease.adaptation_id]

    def abandon(self) -> list[RunningJob]:
        """Remove and return all jobs, and drop the engine without calling it, because its last step may have failed."""
        jobs = list(self)
        self._jobs.clear()
        self._engine = None
        return jobs

    @property
    def _running_engine(self) -> ipt.TuningEngine:
        if self._engine is None:
            raise RuntimeError("no job has joined this batch")
        return self._engine
