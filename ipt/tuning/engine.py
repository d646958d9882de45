"""The tuning engine: advances any number of jobs together, one unit of work of each a step, in shared batches.

Jobs join with `add` and leave with `finish` or `remove` between steps. All gradient work of a step is one forward and
one backward pass over the rows of all jobs (several, of whole jobs, where memory has no room for one); so is all work
without gradients. Long fits, and gradient steps that are too large for one pass, are done for one job a step, a pass at
a time, so that no step takes the longer the more of them there are. A job's numbers do not depend on its neighbours
beyond float rounding.

Letters: B rows, L lanes of all jobs, D intrinsic dimension, P prompt length, H hidden size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ipt.backbones.batching import consecutive_chunks, to_device
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone, TokenIds
from ipt.data.examples import check_examples
from ipt.errors import DatasetError, IptError
from ipt.runtime.memory import positions_with_gradients, positions_without_gradients
from ipt.subspace.subspace import Subspace
from ipt.tuning.encoder_program import EncoderProgram
from ipt.tuning.job import AdaptedTask, Progress, TuningJob
from ipt.tuning.losses import TEXT_LABEL_SMOOTHING
from ipt.tuning.optimizer import descend
from ipt.tuning.program import Program, Steps
from ipt.tuning.text_program import TextProgram
from ipt.tuning.work import NO_PROMPT, Descend, Forward, Generate, Pause, Result, ScoreLabels, Work

# Losses [L] and gradients [L, D] of some lanes.
_Gradients = tuple[Tensor, Tensor]


@dataclass
class _Running:
    program: Program
    steps: Steps
    work: Work | None = None
    on_step: Callable[[Progress], None] | None = field(default=None)


class TuningEngine:
    """Tunes the vectors of many jobs on one backbone and one subspace, both frozen."""

    def __init__(self, backbone: Backbone, subspace: Subspace) -> None:
        subspace.check_backbone(backbone)
        self.backbone = backbone
        self.subspace = subspace
        self._most_positions = positions_with_gradients(backbone)
        self._most_without_gradients = positions_without_gradients(backbone)
        self._copied: torch.cuda.Event | None = None
        self._running: dict[str, _Running] = {}
        # Gradient steps that are too large for one pass, in the order in which they were asked for.
        self._in_parts: deque[tuple[_Running, Iterator[Tensor | None]]] = deque()

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Jobs in the engine, done ones included until `finish` takes them."""
        return tuple(self._running)

    def add(
        self, job: TuningJob, checkpoint: bytes | None = None, on_step: Callable[[Progress], None] | None = None
    ) -> None:
        """Take a job in; it advances from the next `step` on.

        Args:
            job: what to tune.
            checkpoint: what `checkpoint` gave for the same job, to go on from.
            on_step: called with the job's progress after every engine step.

        Raises:
            DatasetError: the examples cannot be tuned on.
            CheckpointError: the checkpoint is damaged or of another job.
            SubspaceMismatchError: the checkpoint belongs to another subspace.
        """
        if job.job_id in self._running:
            raise IptError(f"job {job.job_id!r} is in the engine already", param="job_id")
        check_examples(job.examples, job.validation_examples, job.kind)
        program = self._program(job, checkpoint)
        self._running[job.job_id] = _Running(program, program.run(), on_step=on_step)

    def step(self) -> list[Progress]:
        """Advance every job by one unit of work, or let it wait for its turn, and say where each stands.

        A turn has whoever asked for a `Pause`, and whoever asked for a gradient step too large for one pass: that is
        done in as many engine steps as it takes passes, and counts when it is complete.
        """
        active = [running for running in self._running.values() if running.program.result is None]
        for running in active:
            if running.work is None:
                self._resume(running, None)
        self._run_together(active)
        reports = [running.program.progress() for running in active]
        for running, report in zip(active, reports, strict=True):
            if running.on_step:
                running.on_step(report)
        return reports

    def checkpoint(self, job_id: str) -> bytes:
        """The job's state as bytes to give to `add` later; empty when it has not been tuned yet."""
        return self._running[job_id].program.checkpoint()

    def finish(self, job_id: str) -> AdaptedTask:
        """The tuned task of a job that is done; the job leaves the engine."""
        result = self._running[job_id].program.result
        if result is None:
            raise IptError(f"job {job_id!r} is not done yet", param="job_id")
        self.remove(job_id)
        return result

    def remove(self, job_id: str) -> None:
        """Drop a job."""
        removed = self._running.pop(job_id)
        self._in_parts = deque(turn for turn in self._in_parts if turn[0] is not removed)
        removed.steps.close()

    def _program(self, job: TuningJob, checkpoint: bytes | None) -> Program:
        if isinstance(self.backbone, EncoderBackbone):
            if job.kind != "classification":
                raise DatasetError(
                    f"backbone {self.backbone.identity.id!r} is an encoder, which classifies but does not write text: "
                    "its outputs must be labels (at least two examples of each)",
                    param="kind",
                )
            return EncoderProgram(job, self.subspace, self.backbone, checkpoint)
        assert isinstance(self.backbone, TextBackbone)
        return TextProgram(job, self.subspace, self.backbone, checkpoint)

    def _resume(self, running: _Running, result: Result | None) -> None:
        """Hand a result to the program and take its next work, if any."""
        try:
            running.work = next(running.steps) if result is None else running.steps.send(result)
        except StopIteration:
            running.work = None

    def _run_together(self, active: Sequence[_Running]) -> None:
        descends: list[tuple[_Running, Descend]] = []
        large: list[tuple[_Running, Descend]] = []
        positions: list[int] = []  # of the descends
        for r in active:
            if isinstance(r.work, Descend):
                own = self._positions(r.work)
                if own > self._most_positions:
                    large.append((r, r.work))
                else:
                    descends.append((r, r.work))
                    positions.append(own)
        forwards = [(r, r.work) for r in active if isinstance(r.work, Forward)]
        texts = [(r, r.work) for r in active if isinstance(r.work, ScoreLabels | Generate)]
        pauses = [r for r in active if isinstance(r.work, Pause)]
        if descends:
            losses = self._descend([work for _, work in descends], positions)
            for (running, _), loss in zip(descends, losses, strict=True):
                self._resume(running, loss)
        if large:
            self._take_turn(large)
        if forwards:
            outputs = self._forward([work for _, work in forwards])
            for (running, _), output in zip(forwards, outputs, strict=True):
                self._resume(running, output)
        for running, alone in texts:
            self._resume(running, self._run_alone(alone))
        if pauses:
            self._resume(pauses[0], None)

    def _take_turn(self, large: Sequence[tuple[_Running, Descend]]) -> None:
        """One pass of one of the gradient steps that take several; they are done in the order of their asking."""
        begun = [id(running) for running, _ in self._in_parts]
        self._in_parts += [(r, self._descend_in_parts(work)) for r, work in large if id(r) not in begun]
        running, parts = self._in_parts.popleft()
        losses = next(parts)
        if losses is None:
            self._in_parts.appendleft((running, parts))
        else:
            self._resume(running, losses)

    def _descend(self, works: Sequence[Descend], positions: Sequence[int]) -> Sequence[Tensor]:
        """Loss and gradient of all lanes, then one optimizer step; the losses [L of the job] of each, on the CPU.

        `positions` are those of each work. On a GPU nothing in here waits for it.
        """
        parts = [self._gradients(works[part]) for part in consecutive_chunks(positions, self._most_positions)]
        losses = self._move(works, parts)
        return torch.split(losses, [work.state.vectors.shape[0] for work in works])

    def _descend_in_parts(self, work: Descend) -> Iterator[Tensor | None]:
        """The same for one work that is too large for one pass: its losses, and None after each pass before them."""
        parts: list[_Gradients] = []
        alone = work.lanes_alone()
        positions = [self._positions(lane) for lane in alone]
        for part in consecutive_chunks(positions, self._most_positions):
            if positions[part.start] <= self._most_positions:
                parts.append(self._gradients(alone[part]))
                yield None
            else:
                parts.append((yield from self._gradients_of_large_lane(alone[part.start])))
        yield self._move([work], parts)

    def _move(self, works: Sequence[Descend], parts: Sequence[_Gradients]) -> Tensor:
        """One optimizer step of all lanes; their losses [L], on the CPU."""
        losses, gradients = (torch.cat(each) for each in zip(*parts, strict=True))
        descend([work.state for work in works], gradients, [work.learning_rate for work in works])
        return self._to_host(losses)

    def _gradients(self, works: Sequence[Descend]) -> _Gradients:
        """Of all lanes, in one pass."""
        vectors = torch.cat([work.state.vectors for work in works]).detach().requires_grad_(True)
        outputs = self._outputs(works, self.subspace.decoder(vectors), TEXT_LABEL_SMOOTHING)
        of_lanes = type(works[0].loss).of_lanes([work.loss for work in works], outputs)
        (gradients,) = torch.autograd.grad(of_lanes.sum(), vectors)
        return of_lanes.detach(), gradients

    def _gradients_of_large_lane(self, work: Descend) -> Generator[None, None, _Gradients]:
        """Of a single lane, in several passes: a pause after each.

        All rows are read without gradients first, which tells how the loss depends on what is read of each row; then
        again with gradients, where each row counts by as much (Gao et al., "Scaling Deep Contrastive Learning Batch
        Size under Memory Limited Setup", arXiv 2101.06983, 3.2). A loss to which each row adds its own share needs no
        first reading.
        """
        read = torch.zeros(len(work.inputs), device=work.state.vectors.device)
        if not work.loss.adds_up:
            passes = []
            for rows in self._cut(work, self._most_without_gradients):
                with torch.no_grad():
                    passes.append(self._outputs([rows], self.subspace.decoder(rows.vectors), TEXT_LABEL_SMOOTHING))
                yield
            read = torch.cat(passes)
        read.requires_grad_(True)
        (shares,) = torch.autograd.grad(work.loss.of_lanes([work.loss], read).sum(), read)
        gradient = torch.zeros_like(work.state.vectors)
        again = []
        done = 0
        for rows in self._cut(work, self._most_positions):
            vector = rows.vectors.detach().requires_grad_(True)
            outputs = self._outputs([rows], self.subspace.decoder(vector), TEXT_LABEL_SMOOTHING)
            (part,) = torch.autograd.grad(outputs, vector, shares[done : done + len(outputs)])
            gradient += part
            again.append(outputs.detach())
            done += len(outputs)
            yield
        return work.loss.of_lanes([work.loss], torch.cat(again)), gradient

    def _lengths(self, work: Forward | Descend) -> list[int]:
        """Positions of each row: prompt, input and target."""
        behind = 0 if NO_PROMPT in work.lanes else self.subspace.prompt_length
        if work.targets is None:
            return [behind + len(row) for row in work.inputs]
        return [behind + len(row) + len(target) for row, target in zip(work.inputs, work.targets, strict=True)]

    def _positions(self, work: Forward | Descend) -> int:
        """Of all rows."""
        return sum(self._lengths(work))

    def _cut(self, work: Descend, most_positions: int) -> Iterator[Forward]:
        """The rows of a work, as many at a time as have no more positions; a single row may."""
        for part in consecutive_chunks(self._lengths(work), most_positions):
            targets = None if work.targets is None else work.targets[part]
            yield Forward(work.state.vectors, work.lanes[part], work.inputs[part], targets)

    def _to_host(self, losses: Tensor) -> Tensor:
        """A copy on the CPU; what a GPU has to fill in is there when the next copy is asked for."""
        if losses.device.type != "cuda":
            return losses
        copied = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
        before, self._copied = self._copied, torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(losses.device))
        if before is not None:
            before.synchronize()  # the last step's end: this one has been sent, so that the device goes on
        return copied

    @torch.no_grad()
    def _forward(self, works: Sequence[Forward]) -> list[Tensor]:
        """What the backbone gives for each work's rows; those behind prompts in one pass, the others in another.

        In several, of whole works, where memory has no room for one; programs ask for no larger ones.
        """
        results: dict[int, Tensor] = {}
        for plain in (False, True):
            alike = [work for work in works if (NO_PROMPT in work.lanes) == plain]
            for part in consecutive_chunks([self._positions(work) for work in alike], self._most_without_gradients):
                group = alike[part]
                prompts = None if plain else self.subspace.decoder(torch.cat([work.vectors for work in group]))
                parts = torch.split(self._outputs(group, prompts), [len(work.inputs) for work in group])
                results |= {id(work): part for work, part in zip(group, parts, strict=True)}
        return [results[id(work)] for work in works]

    def _outputs(
        self, works: Sequence[Forward] | Sequence[Descend], prompts: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        """What the backbone gives for the rows of several works; `prompts` [L, P, H] of their lanes, or none."""
        inputs: list[TokenIds] = [row for work in works for row in work.inputs]
        per_row = None
        if prompts is not None:
            lanes, offset = [], 0
            for work in works:
                lanes += [offset + lane for lane in work.lanes]
                offset += work.vectors.shape[0] if isinstance(work, Forward) else work.state.vectors.shape[0]
            per_row = prompts[to_device(torch.tensor(lanes), prompts.device)]
        if isinstance(self.backbone, EncoderBackbone):
            return self.backbone.embed(inputs, per_row)
        assert isinstance(self.backbone, TextBackbone)
        targets = [row for work in works for row in work.targets or ()]
        return self.backbone.target_cross_entropy(inputs, targets, per_row, label_smoothing=label_smoothing)

    @torch.no_grad()
    def _run_alone(self, work: ScoreLabels | Generate) -> Result:
        """Work whose shape (labels, length of the answers) no other job shares."""
        assert isinstance(self.backbone, TextBackbone)
        prompts = None
        if NO_PROMPT not in work.lanes:
            prompts = self.subspace.decoder(work.vectors)[torch.tensor(work.lanes, device=work.vectors.device)]
        if isinstance(work, ScoreLabels):
            return self.backbone.score_labels(work.inputs, work.labels, prompts)
        return self.backbone.generate(work.inputs, prompts, max_new_tokens=work.max_new_tokens)
