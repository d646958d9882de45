"""The tuning engine: advances any number of jobs together, one unit of work of each a step, in shared batches.

Jobs join with `add` and leave with `finish` or `remove` between steps. Gradient steps of all jobs share one forward and
one backward pass; work without gradients shares a forward pass. Long fits, and gradient steps that are too large for
one pass, take turns, one job a step, so that the duration of a step does not grow with the number of jobs. A job's
result does not depend on the other jobs, beyond float rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone
from ipt.data.preparation import check_unified
from ipt.errors import DatasetError, IptError
from ipt.subspace.subspace import Subspace
from ipt.tuning.encoder_loop import EncoderLoop
from ipt.tuning.job import AdaptedTask, Progress, TuningJob
from ipt.tuning.multilabel_loop import MultiLabelLoop
from ipt.tuning.text_loop import TextLoop
from ipt.tuning.tuning_loop import TuningLoop
from ipt.tuning.work_runner import WorkRunner
from ipt.tuning.work_units import Forward, Generate, GradientStep, Pause, Result, ScoreLabels, Work, WorkStream


@dataclass
class _RunningJob:
    loop: TuningLoop
    stream: WorkStream
    on_step: Callable[[Progress], None] | None
    work: Work | None = None

    def resume(self, result: Result | None) -> None:
        """Send a result to the loop and take its next unit of work, if any."""
        try:
            self.work = next(self.stream) if result is None else self.stream.send(result)
        except StopIteration:
            self.work = None


class TuningEngine:
    """Tunes the vectors of many jobs on one backbone and one subspace, both frozen."""

    def __init__(self, backbone: Backbone, subspace: Subspace) -> None:
        self.backbone = backbone = subspace.placed(backbone)
        self.subspace = subspace
        self._runner = WorkRunner(backbone, subspace)
        self._jobs: dict[str, _RunningJob] = {}
        # Gradient steps that need several passes, in order of request.
        self._large_steps: deque[tuple[_RunningJob, Iterator[Tensor | None]]] = deque()

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Ids of the jobs in the engine, including those that are done but not finished with `finish`."""
        return tuple(self._jobs)

    def add(
        self, job: TuningJob, checkpoint: bytes | None = None, on_step: Callable[[Progress], None] | None = None
    ) -> None:
        """Add a job; it advances from the next `step` on.

        Args:
            job: what to tune.
            checkpoint: the result of `checkpoint` for the same job, to resume from.
            on_step: called with the job's progress after every engine step.

        Raises:
            DatasetError: the examples cannot be tuned on.
            CheckpointError: the checkpoint is damaged or belongs to another job.
            SubspaceMismatchError: the checkpoint belongs to another subspace.
        """
        if job.job_id in self._jobs:
            raise IptError(f"job {job.job_id!r} is already in the engine: give each job its own id", param="job_id")
        check_unified(job.examples, job.validation_examples, job.kind)
        loop = self._tuning_loop(job, checkpoint)
        self._jobs[job.job_id] = _RunningJob(loop, loop.run(), on_step)

    def step(self) -> list[Progress]:
        """Advance every job by one unit of work, or let it wait for its turn, and report the progress of each.

        Jobs that requested a `Pause`, or a gradient step too large for one pass, take turns. A large gradient step
        takes one engine step for each pass and counts when its last pass is complete.
        """
        active = [job for job in self._jobs.values() if job.loop.result is None]
        for job in active:
            if job.work is None:
                job.resume(None)
        self._run(active)
        reports = [job.loop.progress() for job in active]
        for job, report in zip(active, reports, strict=True):
            if job.on_step:
                job.on_step(report)
        return reports

    def checkpoint(self, job_id: str) -> bytes:
        """Return the job's state, to pass to `add` later; empty if tuning has not started."""
        return self._jobs[job_id].loop.checkpoint()

    def finish(self, job_id: str) -> AdaptedTask:
        """Return the tuned task of a job that is done, and remove the job.

        Raises:
            IptError: the job is not done.
        """
        result = self._jobs[job_id].loop.result
        if result is None:
            raise IptError(f"job {job_id!r} is not done yet: call `step` until its progress is done", param="job_id")
        self.remove(job_id)
        return result

    def remove(self, job_id: str) -> None:
        """Drop a job."""
        removed = self._jobs.pop(job_id)
        self._large_steps = deque(turn for turn in self._large_steps if turn[0] is not removed)
        removed.stream.close()

    def _tuning_loop(self, job: TuningJob, checkpoint: bytes | None) -> TuningLoop:
        if isinstance(self.backbone, EncoderBackbone):
            if job.kind == "multilabel":
                return MultiLabelLoop(job, self.subspace, self.backbone, checkpoint)
            if job.kind != "classification":
                raise DatasetError(
                    f"backbone {self.backbone.identity.id!r} is an encoder, which classifies but does not write text: "
                    "its outputs must be labels (at least two examples of each)",
                    param="kind",
                )
            return EncoderLoop(job, self.subspace, self.backbone, checkpoint)
        assert isinstance(self.backbone, TextBackbone)
        if job.kind == "multilabel":
            raise DatasetError(
                f"backbone {self.backbone.identity.id!r} writes text, not several labels at once: tune on an "
                "encoder, or set kind to 'text2text' with the labels as one text",
                param="kind",
            )
        return TextLoop(job, self.subspace, self.backbone, checkpoint)

    def _run(self, active: Sequence[_RunningJob]) -> None:
        """Run the requested work of all jobs, and resume the jobs with its results."""
        steps = [(job, job.work) for job in active if isinstance(job.work, GradientStep)]
        forwards = [(job, job.work) for job in active if isinstance(job.work, Forward)]
        singles = [(job, job.work) for job in active if isinstance(job.work, ScoreLabels | Generate)]
        pauses = [job for job in active if isinstance(job.work, Pause)]
        self._run_steps(steps)
        if forwards:
            outputs = self._runner.forward([work for _, work in forwards])
            for (job, _), output in zip(forwards, outputs, strict=True):
                job.resume(output)
        for job, work in singles:
            job.resume(self._runner.run_single(work))
        if pauses:
            pauses[0].resume(None)

    def _run_steps(self, steps: Sequence[tuple[_RunningJob, GradientStep]]) -> None:
        small: list[tuple[_RunningJob, GradientStep]] = []
        large: list[tuple[_RunningJob, GradientStep]] = []
        for job, step in steps:
            (small if self._runner.fits_one_pass(step) else large).append((job, step))
        if small:
            losses = self._runner.take_steps([step for _, step in small])
            for (job, _), loss in zip(small, losses, strict=True):
                job.resume(loss)
        if large:
            self._run_pass_of_large_step(large)

    def _run_pass_of_large_step(self, large: Sequence[tuple[_RunningJob, GradientStep]]) -> None:
        """Run one pass of the oldest large gradient step."""
        begun = [id(job) for job, _ in self._large_steps]
        self._large_steps += [
            (job, self._runner.take_step_in_passes(step)) for job, step in large if id(job) not in begun
        ]
        job, passes = self._large_steps.popleft()
        losses = next(passes)
        if losses is None:
            self._large_steps.appendleft((job, passes))
        else:
            job.resume(losses)
