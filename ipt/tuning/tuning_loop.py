"""The tuning loop of one job: choose a start, take gradient steps, validate, stop early, conclude.

Subclasses define what differs between kinds of task: loss, validation and readout. All state here is per job, so a
job's result does not depend on which other jobs share the engine. The order of the data depends only on (seed, lane,
step), so a job resumed from its state continues exactly as if it had not been interrupted.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from ipt.backbones.interface import TokenIds
from ipt.data.examples import labels_of
from ipt.data.near_duplicates import near_duplicate_groups, new_rows, new_token_ids
from ipt.errors import IptError
from ipt.subspace.subspace import Subspace
from ipt.tuning.checkpoint import TuningState
from ipt.tuning.job import AdaptedTask, Progress, TuningJob
from ipt.tuning.optimizer import scheduled_rate
from ipt.tuning.work_units import GradientStep, Result, Work, WorkStream

PATIENCE = 2
"""Validations without a lower loss in any restart after which a job stops early."""
RESTART_NOISE = 0.02
"""Standard deviation of the start of lanes beyond the subspace's initial vectors, as in the reference."""
HELD_BACK_FRACTION = 0.25
MIN_PER_LABEL_TO_HOLD_BACK = 4


class TuningLoop(ABC):
    """The work of one job. Letters: R restarts, F lanes of a restart, L = R · F lanes, K initial vectors, D dimension.

    The lanes of a restart start together and are tuned on different rows.
    """

    lanes_per_restart = 1
    """F."""

    def __init__(self, job: TuningJob, subspace: Subspace, device: torch.device) -> None:
        self.job = job
        self.subspace = subspace
        self.device = device
        self.digest = _digest(job)
        self.initial_vectors = _initial_vectors(job, subspace).to(device)
        self.state: TuningState | None = None
        self.phase = "preparing"
        self.loss: float | None = None
        self.validation: tuple[int, float] | None = None
        self._newest_losses: Tensor | None = None
        self.result: AdaptedTask | None = None

    def resume_from(self, checkpoint: bytes | None) -> None:
        """Continue at the state that `checkpoint` returned for the same job; start at the beginning if it is empty.

        Raises:
            CheckpointError: as in `TuningState.from_bytes`.
        """
        if checkpoint:
            shape = (self.job.hyperparameters.restarts * self.lanes_per_restart, self.subspace.intrinsic_dim)
            self.state = TuningState.from_bytes(checkpoint, self.subspace.id, self.digest, shape, self.device)

    def checkpoint(self) -> bytes:
        """Return the state to resume from; empty if tuning has not started."""
        return b"" if self.state is None else self.state.to_bytes(self.subspace.id, self.digest)

    def progress(self) -> Progress:
        step = 0 if self.state is None else self.state.lanes.step
        done = self.result is not None
        steps = self.job.hyperparameters.steps
        return Progress(self.job.job_id, step, steps, self.loss, done, self.phase, self.validation)

    def run(self) -> WorkStream:
        """Yield work until `result` is set."""
        yield from self.prepare()
        if self.state is None:
            starts = yield from self._choose_starts()
            self.state = TuningState.start(starts, self.lanes_per_restart)
        yield from self._tune(self.state)
        self.phase = "finishing"
        best = int(np.argmin(self.state.best_losses))
        lanes = slice(best * self.lanes_per_restart, (best + 1) * self.lanes_per_restart)
        self.result = yield from self.conclude(self.state.best_vectors[lanes].clone(), self.state.starts[lanes][0])

    def _choose_starts(self) -> Generator[Work, Result, Tensor]:
        """Return the starts [R, D]: the initial vectors of lowest loss, then noise around the best one."""
        candidates = self.initial_vectors
        restarts = self.job.hyperparameters.restarts
        order = [0]
        if len(candidates) > 1:
            losses = yield from self.start_losses()
            order = np.argsort(losses, kind="stable")[:restarts].tolist()
        starts = candidates[order]
        if len(order) < restarts:
            rng = np.random.default_rng([self.job.hyperparameters.seed, 1])
            noise = RESTART_NOISE * rng.standard_normal((restarts - len(order), candidates.shape[1]))
            starts = torch.cat([starts, candidates[order[0]] + torch.as_tensor(noise).to(candidates)])
        return starts

    def _tune(self, state: TuningState) -> WorkStream:
        self.phase = "tuning"
        hyperparameters = self.job.hyperparameters
        interval = self.validation_interval()
        while True:
            step = state.lanes.step
            is_last = step == hyperparameters.steps
            if (step % interval == 0 or is_last) and state.validated_step < step:
                losses = yield from self.validation_losses(state.lanes.averages)
                self.record_validation(state, losses)
            stops_early = self.job.early_stopping and state.stale_validations >= PATIENCE
            if is_last or stops_early:
                return
            rate = scheduled_rate(hyperparameters.learning_rate, step, hyperparameters.steps)
            lane_losses = yield self.next_gradient_step(state, rate)
            assert isinstance(lane_losses, Tensor)
            self._record_losses(lane_losses)

    def _record_losses(self, lane_losses: Tensor) -> None:
        previous, self._newest_losses = self._newest_losses, lane_losses
        # A GPU may still be computing the newest losses; reading them would wait for it.
        complete = previous if self.device.type == "cuda" else lane_losses
        self.loss = None if complete is None else sum(complete.tolist()) / len(complete)

    def record_validation(self, state: TuningState, losses: Sequence[float]) -> None:
        """Keep the vectors of each restart whose loss [R] is its lowest so far."""
        improved = False
        for restart, loss in enumerate(losses):
            if loss < state.best_losses[restart]:
                lanes = slice(restart * self.lanes_per_restart, (restart + 1) * self.lanes_per_restart)
                state.best_losses[restart] = loss
                state.best_vectors[lanes] = state.lanes.averages[lanes]
                state.best_step = state.lanes.step
                improved = True
        self.validation = (state.lanes.step, min(losses))
        state.validated_step = state.lanes.step
        state.stale_validations = 0 if improved else state.stale_validations + 1

    def rng(self, lane: int, step: int) -> np.random.Generator:
        """Return the random generator of one lane's step."""
        return np.random.default_rng([self.job.hyperparameters.seed, 2, lane, step])

    @abstractmethod
    def prepare(self) -> WorkStream:
        """Compute what all later stages need; also runs after a resume."""

    @abstractmethod
    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        """Return the validation loss of each restart, whose lanes are at `vectors` [L, D]."""

    @abstractmethod
    def validation_interval(self) -> int:
        """Return the number of steps between two validations."""

    @abstractmethod
    def start_losses(self) -> Generator[Work, Result, list[float]]:
        """Return the loss [K] of each initial vector before tuning."""

    @abstractmethod
    def next_gradient_step(self, state: TuningState, learning_rate: float) -> GradientStep:
        """Return the rows and the loss of the next gradient step."""

    @abstractmethod
    def conclude(self, vectors: Tensor, start: Tensor) -> Generator[Work, Result, AdaptedTask]:
        """Return the tuned task.

        Args:
            vectors: [F, D], those of the best restart's lanes at its best validation.
            start: [D], where that restart started.
        """


def _digest(job: TuningJob) -> str:
    """Return a hash of everything that a resumed job must share with the job that wrote the state."""
    description: list[object] = [asdict(job.hyperparameters), job.kind]
    if job.initial_vectors is not None:
        description.append(np.asarray(job.initial_vectors).tolist())
    if not job.early_stopping:
        description.append("to the last step")
    description += [
        None if rows is None else [(e.input, e.output) for e in rows]
        for rows in (job.examples, job.validation_examples)
    ]
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:32]


def _initial_vectors(job: TuningJob, subspace: Subspace) -> Tensor:
    if job.initial_vectors is None:
        return subspace.initial_vectors
    vectors = torch.as_tensor(np.asarray(job.initial_vectors, dtype=np.float32))
    if vectors.dim() != 2 or not len(vectors) or vectors.shape[1] != subspace.intrinsic_dim:
        raise IptError(
            f"initial_vectors must have shape [K, {subspace.intrinsic_dim}], got {list(vectors.shape)}",
            param="initial_vectors",
        )
    if not torch.isfinite(vectors).all():
        raise IptError("initial_vectors must be finite numbers", param="initial_vectors")
    return vectors


def split_rows(job: TuningJob, token_ids: Sequence[TokenIds]) -> tuple[list[int], list[int]]:
    """Return the numbers of the examples to tune on and of the held-back (validation) examples.

    Validation examples are numbered after the examples.
    Without `validation_examples` a quarter of each label's texts is held back (of all texts, for text to text); labels
    with fewer than four texts hold none back. Near-duplicates count as one text and stay together; a text that has
    several labels is not held back.

    Args:
        job: the job.
        token_ids: of the inputs of all its examples, then of its validation examples.
    """
    count = len(job.examples)
    different = {count + row for row in new_token_ids(token_ids[count:], token_ids[:count])}
    new = [count + row for row in new_rows(job.validation_examples or [], job.examples) if count + row in different]
    if new:
        return list(range(count)), new
    rng = np.random.default_rng([job.hyperparameters.seed, 0])
    rows_of_text: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(near_duplicate_groups(job.examples, token_ids[:count])):
        rows_of_text[group].append(row)
    texts_of_label: dict[str, list[list[int]]] = defaultdict(list)
    for rows in rows_of_text.values():
        outputs = {job.examples[row].output for row in rows}
        if job.kind == "text2text":
            texts_of_label[""].append(rows)
        elif len(outputs) == 1:
            texts_of_label[outputs.pop()].append(rows)
    held_back: set[int] = set()
    for label in labels_of(job.examples) if job.kind == "classification" else [""]:
        texts = texts_of_label[label]
        if len(texts) >= MIN_PER_LABEL_TO_HOLD_BACK:
            drawn = rng.permutation(len(texts))[: max(1, int(len(texts) * HELD_BACK_FRACTION))]
            held_back.update(row for number in drawn for row in texts[number])
    return [row for row in range(count) if row not in held_back], sorted(held_back)
