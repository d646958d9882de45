"""One job's tuning as a program of work for the engine: choose where to start, descend, validate, conclude.

What differs between task kinds (loss, validation, readout) is left to the subclasses; everything here is per job, so
that a job's result does not depend on which other jobs share the engine. Data order comes from (seed, lane, step)
alone, so a job resumed from its state goes on exactly as it would have.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from ipt.data.examples import Example, labels_of
from ipt.errors import IptError
from ipt.subspace.subspace import Subspace
from ipt.tuning.job import AdaptedTask, Progress, TuningJob
from ipt.tuning.optimizer import scheduled
from ipt.tuning.state import TuningState
from ipt.tuning.work import Descend, Result, Work

Steps = Generator[Work, Result, None]

VALIDATIONS = 4
"""Validations over a run, besides the one before the first step."""
KEEP_NATS = 0.5
"""A tuned vector replaces its start if it makes the rows it is measured on likelier by this much altogether."""
RESTART_NOISE = 0.02
"""Standard deviation of the start of lanes beyond the subspace's initial vectors, as in the reference."""
HELD_BACK_FRACTION = 0.25
MIN_PER_LABEL_TO_HOLD_BACK = 4


class Program(ABC):
    """The work of one job. Letters: L lanes (restarts), K initial vectors, D intrinsic dimension."""

    patience = 2
    """Validations without a better loss in any lane after which a job stops early."""
    measured_rows: int
    """How many rows a validation's mean loss is over."""

    def __init__(self, job: TuningJob, subspace: Subspace, device: torch.device, checkpoint: bytes | None) -> None:
        self.job = job
        self.subspace = subspace
        self.device = device
        self.digest = _digest(job)
        self.initial_vectors = _initial_vectors(job, subspace).to(device)
        self.train, self.held_back = split_examples(job)
        self.state: TuningState | None = None
        self.phase = "preparing"
        self.loss: float | None = None
        self._newest_losses: Tensor | None = None
        self.result: AdaptedTask | None = None
        if checkpoint is not None and checkpoint != b"":
            shape = (job.hyperparameters.restarts, subspace.intrinsic_dim)
            self.state = TuningState.from_bytes(checkpoint, subspace.id, self.digest, shape, device)

    def checkpoint(self) -> bytes:
        """State to resume from; empty while nothing has been tuned yet."""
        return b"" if self.state is None else self.state.to_bytes(self.subspace.id, self.digest)

    def progress(self) -> Progress:
        step = 0 if self.state is None else self.state.lanes.step
        done = self.result is not None
        return Progress(self.job.job_id, step, self.job.hyperparameters.steps, self.loss, done, self.phase)

    def run(self) -> Steps:
        """Yield work until `result` is there."""
        yield from self.prepare()
        if self.state is None:
            self.state = TuningState.start((yield from self._choose_starts()))
        yield from self._tune(self.state)
        self.phase = "finishing"
        best = int(np.argmin(self.state.best_losses))
        self.result = yield from self.conclude(self.state.best_vectors[best].clone())

    def _choose_starts(self) -> Generator[Work, Result, Tensor]:
        """[L, D]: the initial vectors that do best before tuning, then noise around the best where lanes are left."""
        candidates = self.initial_vectors
        lanes = self.job.hyperparameters.restarts
        order = [0]
        if len(candidates) > 1:
            losses = yield from self.start_losses()
            order = np.argsort(losses, kind="stable")[:lanes].tolist()
        starts = candidates[order]
        if len(order) < lanes:
            rng = np.random.default_rng([self.job.hyperparameters.seed, 1])
            noise = RESTART_NOISE * rng.standard_normal((lanes - len(order), candidates.shape[1]))
            starts = torch.cat([starts, candidates[order[0]] + torch.as_tensor(noise).to(candidates)])
        return starts

    def _tune(self, state: TuningState) -> Steps:
        self.phase = "tuning"
        asked = self.job.hyperparameters
        every = max(1, -(-asked.steps // VALIDATIONS))
        while True:
            step = state.lanes.step
            if (step % every == 0 or step == asked.steps) and state.validated_step < step:
                losses = yield from self.validation_losses(state.lanes.averages)
                self._note_validation(state, losses)
            stale = self.job.early_stopping and state.stale_validations >= self.patience
            if step == asked.steps or stale:
                return
            rate = scheduled(asked.learning_rate, step, asked.steps)
            lane_losses = yield self.descend_on(state, rate)
            assert isinstance(lane_losses, Tensor)
            self._note_losses(lane_losses)

    def _note_losses(self, lane_losses: Tensor) -> None:
        before, self._newest_losses = self._newest_losses, lane_losses
        # A GPU is still at work on the newest ones, and is not waited for.
        known = before if self.device.type == "cuda" else lane_losses
        self.loss = None if known is None else sum(known.tolist()) / len(known)

    def _note_validation(self, state: TuningState, losses: Sequence[float]) -> None:
        improved = False
        advantage = KEEP_NATS / self.measured_rows if state.lanes.step == 0 else 0.0
        for lane, measured in enumerate(losses):
            loss = measured - advantage
            if loss < state.best_losses[lane]:
                state.best_losses[lane] = loss
                state.best_vectors[lane] = state.lanes.averages[lane]
                improved = True
        state.validated_step = state.lanes.step
        state.stale_validations = 0 if improved else state.stale_validations + 1

    def rng(self, lane: int, step: int) -> np.random.Generator:
        """The randomness of one lane's step."""
        return np.random.default_rng([self.job.hyperparameters.seed, 2, lane, step])

    @abstractmethod
    def prepare(self) -> Steps:
        """Whatever has to be computed before anything else, also after a resume."""

    @abstractmethod
    def validation_losses(self, vectors: Tensor) -> Generator[Work, Result, list[float]]:
        """How well each of `vectors` [L, D] does on what is held back (lower is better)."""

    def start_losses(self) -> Generator[Work, Result, list[float]]:
        """How well each of the initial vectors does before any tuning (lower is better; infinite: left out)."""
        return (yield from self.validation_losses(self.initial_vectors))

    @abstractmethod
    def descend_on(self, state: TuningState, learning_rate: float) -> Descend:
        """The rows and the loss of the next gradient step."""

    @abstractmethod
    def conclude(self, vector: Tensor) -> Generator[Work, Result, AdaptedTask]:
        """Make the task from its final vector [D]."""


def _digest(job: TuningJob) -> str:
    """A hash of all that a resumed job must share with the one that wrote the state."""
    described: list[object] = [asdict(job.hyperparameters), job.kind]
    if job.initial_vectors is not None:
        described.append(np.asarray(job.initial_vectors).tolist())
    if not job.early_stopping:
        described.append("to the last step")
    described += [
        None if rows is None else [(e.input, e.output) for e in rows]
        for rows in (job.examples, job.validation_examples)
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


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


def split_examples(job: TuningJob) -> tuple[list[Example], list[Example]]:
    """Examples to tune on and examples held back: the caller's, or a quarter of each label's (of all, for text).

    Labels with fewer than four examples give none.
    """
    if job.validation_examples is not None:
        return list(job.examples), list(job.validation_examples)
    rng = np.random.default_rng([job.hyperparameters.seed, 0])
    if job.kind == "classification":
        groups = [[i for i, e in enumerate(job.examples) if e.output == label] for label in labels_of(job.examples)]
    else:
        groups = [list(range(len(job.examples)))]
    held: set[int] = set()
    for group in groups:
        if len(group) >= MIN_PER_LABEL_TO_HOLD_BACK:
            held.update(rng.permutation(group)[: max(1, int(len(group) * HELD_BACK_FRACTION))].tolist())
    train = [example for i, example in enumerate(job.examples) if i not in held]
    return train, [job.examples[i] for i in sorted(held)]
