"""The adaptations that one engine tunes together, and what of them is already in the database."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import ipt
from app.queue.claiming import ClaimedAdaptation
from app.queue.lifecycle import Lease
from worker.time_slices import Slice

# A progress bar needs no more; each one is a row.
_PROGRESS_EVENTS = 20


@dataclass(slots=True)
class RunningJob:
    """One claimed adaptation in the engine; `checkpoint` is the last state known to be good."""

    lease: Lease
    is_retry: bool
    tuning: ipt.TuningJob
    checkpoint: bytes | None
    step: int
    steps: int
    loss: float | None
    checkpoint_step: int
    announced_step: int
    slice: Slice
    unreported: bool = False

    @classmethod
    def of(cls, claimed: ClaimedAdaptation) -> "RunningJob":
        """Raises IptError for hyperparameters out of their range, TypeError for such as the core does not know."""
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
            announced_step=claimed.step,
            slice=Slice(claimed.step),
        )

    def advanced(self, step: int, steps: int, loss: float | None) -> None:
        """Note what an engine step did; the first ones may lie behind what the row has heard of before a loss."""
        if step < self.step:
            self.checkpoint_step = self.announced_step = step
            self.slice = Slice(step)
        self.slice.advanced(step)
        self.step, self.steps, self.loss = step, steps, loss
        self.unreported = True

    def reported(self, *, announced: bool) -> None:
        """Note that the database knows how far the job is, and whether an event announces it."""
        self.unreported = False
        if announced:
            self.announced_step = self.step

    @property
    def progress_due(self) -> bool:
        """Whether enough steps went by for one more progress event."""
        return self.step - self.announced_step >= max(1, self.steps // _PROGRESS_EVENTS)

    @property
    def progress(self) -> dict[str, Any]:
        """The data of a progress event; a loss that JSON cannot hold is left out."""
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        return {"step": self.step, "steps": self.steps, "loss": loss}


class Batch:
    """An engine and its running jobs, kept in step with each other."""

    def __init__(self, new_engine: Callable[[], ipt.TuningEngine]) -> None:
        self._new_engine = new_engine
        self._engine: ipt.TuningEngine | None = None
        self._jobs: dict[str, RunningJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(tuple(self._jobs.values()))

    @property
    def runs_alone(self) -> bool:
        """Whether what runs is a second attempt, which nothing may join."""
        return any(job.is_retry for job in self)

    def has_had(self, seconds: float) -> bool:
        """Whether every job has had its time slice, as those of an empty batch have."""
        return all(job.slice.is_over(seconds) for job in self)

    def add(self, job: RunningJob) -> None:
        """Let a job join, from its checkpoint where it has one; raises what the engine raises."""
        if self._engine is None:
            self._engine = self._new_engine()
        self._engine.add(job.tuning, job.checkpoint)
        self._jobs[job.lease.adaptation_id] = job

    def step(self) -> list[RunningJob]:
        """Advance every job by one step; the jobs that are done are still in the batch."""
        done = []
        for progress in self._running_engine.step():
            job = self._jobs[progress.job_id]
            job.advanced(progress.step, progress.steps, progress.loss)
            if progress.done:
                done.append(job)
        return done

    def checkpoint(self, job: RunningJob) -> None:
        """Keep the job's state at this step, from which it would go on exactly; there is none before the first."""
        job.checkpoint = self._running_engine.checkpoint(job.lease.adaptation_id) or None
        job.checkpoint_step = job.step

    def finish(self, job: RunningJob) -> ipt.AdaptedTask:
        """The result of a job that is done; the job has left the batch whether this raises or not."""
        try:
            return self._running_engine.finish(job.lease.adaptation_id)
        except BaseException:
            self._running_engine.remove(job.lease.adaptation_id)
            raise
        finally:
            del self._jobs[job.lease.adaptation_id]

    def remove(self, job: RunningJob) -> None:
        """Let a job leave as it is."""
        self._running_engine.remove(job.lease.adaptation_id)
        del self._jobs[job.lease.adaptation_id]

    def abandon(self) -> list[RunningJob]:
        """Empty the batch without asking an engine whose last step went wrong, and use that engine no more."""
        jobs = list(self)
        self._jobs.clear()
        self._engine = None
        return jobs

    @property
    def _running_engine(self) -> ipt.TuningEngine:
        if self._engine is None:
            raise RuntimeError("no job has joined this batch")
        return self._engine
