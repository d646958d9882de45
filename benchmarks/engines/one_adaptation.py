"""Time of one adaptation to the same score: ours, PEFT's prompt tuning, and SetFit where it is installed."""

from __future__ import annotations

import importlib.util
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ipt
from benchmarks.engines.backbones import Measured, examples_of
from benchmarks.engines.peft_peer import PeftPeer
from benchmarks.engines.timing import Ratio, timed
from benchmarks.report import Figure
from ipt.backbones.loading import DEFAULT, packaged_path

PER_LABEL = 16
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
SEARCH_STEPS = 40
PEFT_ROWS = 16
SETFIT_STEPS = (5, 10, 20, 40, 80, 160, 320)
TIMEOUT_FACTOR = 1.05
"""A peer is stopped after this multiple of the time that the goal allows."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Seconds until the score was reached or the run was stopped, and the best score."""

    seconds: float
    score: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """A method that ours is compared with; `to_score` takes seed, score and the time limit in seconds."""

    what: str
    goal: float
    how: str
    to_score: Callable[[int, float, float], Reached]


def adaptation(measured: Measured, rounds: int) -> Iterator[Figure]:
    """Compare one few-shot task, from examples to a score on rows outside the training set."""
    train, held = split()
    peers = [_peft(measured, train, held)]
    if importlib.util.find_spec("setfit") is not None:
        peers += [_setfit(train, held), _setfit_as_shipped(train, held)]
    ours: list[tuple[float, float]] = []
    theirs: list[list[Reached]] = []
    for seed in range(rounds):
        seconds, score = ours_to_score(measured, train, held, seed)
        ours.append((seconds, score))
        theirs.append([peer.to_score(seed, score, TIMEOUT_FACTOR * peer.goal * seconds) for peer in peers])
    for peer, runs in zip(peers, zip(*theirs, strict=True), strict=True):
        yield _figure(peer, ours, runs, len(held))


def _figure(peer: Peer, ours: Sequence[tuple[float, float]], runs: Sequence[Reached], held: int) -> Figure:
    seconds, scores = np.median(ours, axis=0)
    ratio = Ratio([run.seconds / ours_seconds for run, (ours_seconds, _) in zip(runs, ours, strict=True)])
    missed = [run.score for run in runs if not run.reached]
    best = f", the best at {100 * max(missed):.0f} %" if any(missed) else ""
    late = f" {len(missed)} of them were stopped before they reached the score{best}." if missed else ""
    how = (
        f"support_tickets.jsonl, 6 labels with {PER_LABEL} examples each; accuracy on the {held} other rows. Ours:"
        f" `ipt.adapt` with defaults (median {seconds:.1f} s and {100 * scores:.0f} %). {peer.how} {len(runs)}"
        f" alternating runs of each, with different seeds: median, minimum and maximum.{late}"
    )
    shown = f"{'at least ' if missed else ''}{ratio}"
    return Figure(peer.what, shown, f"≥ {peer.goal:g}×", ratio.median >= peer.goal, how)


def _peft(measured: Measured, train: list[ipt.Example], held: list[ipt.Example]) -> Peer:
    rate = best_rate(measured, train, held)
    how = (
        f"PEFT: the best learning rate of {', '.join(map(str, RATES))} after {SEARCH_STEPS} steps ({rate}), {PEFT_ROWS}"
        " rows per step, prompt and classifier trained, scored after every sixth step outside the measured time."
    )
    what = "one adaptation to the same score, against PEFT prompt tuning"
    return Peer(what, 5.0, how, partial(peft_to_score, measured, train, held, rate))


def _setfit(train: list[ipt.Example], held: list[ipt.Example]) -> Peer:
    how = (
        "SetFit: all of MiniLM trained on pairs, with its defaults except for the number of steps:"
        f" {', '.join(map(str, SETFIT_STEPS))} in separate runs until one reaches the score; only that run counts."
    )
    what = "one adaptation to the same score, against SetFit with the best number of steps"
    return Peer(what, 3.0, how, partial(setfit_to_score, train, held))


def _setfit_as_shipped(train: list[ipt.Example], held: list[ipt.Example]) -> Peer:
    how = (
        "SetFit: with its defaults until it ends, as ours; its score does not count, and it is stopped once the goal is"
        " met."
    )
    return Peer("one adaptation, against SetFit with its defaults", 3.0, how, partial(setfit_to_its_end, train, held))


def split() -> tuple[list[ipt.Example], list[ipt.Example]]:
    """Return tickets to adapt with, and the rest."""
    train: list[ipt.Example] = []
    held: list[ipt.Example] = []
    for example in examples_of():
        enough = sum(other.output == example.output for other in train) == PER_LABEL
        (held if enough else train).append(example)
    return train, held


def ours_to_score(
    measured: Measured, train: list[ipt.Example], held: list[ipt.Example], seed: int
) -> tuple[float, float]:
    """Return seconds and accuracy."""
    adapted: list[ipt.AdaptedTask] = []
    hyperparameters = ipt.Hyperparameters(seed=seed)

    def adapt() -> None:
        adapted.append(ipt.adapt(measured.backbone, measured.subspace, train, hyperparameters=hyperparameters))

    seconds = timed(adapt, measured.backbone.device)
    head = adapted[0].head
    predictor = ipt.Predictor(measured.backbone, measured.subspace)
    answers = predictor.predict([(head, example.input) for example in held])
    return seconds, _accuracy([str(answer.label) for answer in answers], held)


def best_rate(measured: Measured, train: list[ipt.Example], held: list[ipt.Example]) -> float:
    """Return the learning rate with which PEFT scores best after `SEARCH_STEPS` steps."""
    scores = {}
    for rate in RATES:
        run = PeftRun(measured, train, held, rate, seed=0)
        for _ in range(SEARCH_STEPS):
            run.step()
        scores[rate] = run.score()
    return max(scores, key=scores.__getitem__)


class PeftRun:
    """PEFT prompt tuning on one task."""

    def __init__(
        self, measured: Measured, train: list[ipt.Example], held: list[ipt.Example], rate: float, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.device = measured.backbone.device
        self.peer = PeftPeer(measured, sorted({example.output for example in train}))
        self.optimizer = self.peer.optimizer(rate)
        self.held = self.peer.batch(held)
        self.train = train
        self.rng = np.random.default_rng(seed)
        self.waiting: list[int] = []

    def step(self) -> None:
        """Train on the next batch of a random permutation of the examples."""
        if not self.waiting:
            self.waiting = self.rng.permutation(len(self.train)).tolist()
        drawn, self.waiting = self.waiting[:PEFT_ROWS], self.waiting[PEFT_ROWS:]
        self.peer.step(self.peer.batch([self.train[row] for row in drawn]), self.optimizer)

    @torch.inference_mode()
    def score(self) -> float:
        """Return the accuracy on the held-back rows."""
        logits = self.peer.model(input_ids=self.held["input_ids"], attention_mask=self.held["attention_mask"]).logits
        return float((logits.argmax(dim=1) == self.held["labels"]).float().mean())


def peft_to_score(
    measured: Measured, train: list[ipt.Example], held: list[ipt.Example], rate: float, seed: int,
    score: float, most_seconds: float,
) -> Reached:  # fmt: skip
    """Train until the score or the time limit is reached."""
    run = PeftRun(measured, train, held, rate, seed)

    def epoch() -> None:
        for _ in range(6):
            run.step()

    seconds = best = 0.0
    while best < score and seconds < most_seconds:
        seconds += timed(epoch, run.device)
        best = max(best, run.score())
    return Reached(seconds, best, best >= score)


def setfit_to_score(
    train: list[ipt.Example], held: list[ipt.Example], seed: int, score: float, most_seconds: float
) -> Reached:
    """Train with more and more steps until the score is reached or a run exceeds the time limit."""
    best = seconds = 0.0
    for steps in SETFIT_STEPS:
        seconds, accuracy = _train_setfit(train, held, seed, max_steps=steps)
        assert accuracy is not None
        best = max(best, accuracy)
        if accuracy >= score or seconds > most_seconds:
            break
    return Reached(seconds, best, best >= score)


def setfit_to_its_end(
    train: list[ipt.Example], held: list[ipt.Example], seed: int, _score: float, most_seconds: float
) -> Reached:
    """Train with defaults until the end or the time limit."""
    seconds, accuracy = _train_setfit(train, held, seed, most_seconds)
    return Reached(seconds, accuracy or 0.0, accuracy is not None)


def _train_setfit(
    train: Sequence[ipt.Example], held: Sequence[ipt.Example], seed: int, most_seconds: float = math.inf, **options: int
) -> tuple[float, float | None]:
    """Return the seconds of training and the accuracy on held-back rows, None if the time limit ended training."""
    import setfit
    from datasets import Dataset
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Ends training at the time limit."""

        def on_step_end(self, _arguments: object, _state: object, control: Any, **_: object) -> None:
            control.should_training_stop |= time.perf_counter() - began > most_seconds

    model: Any = setfit.SetFitModel.from_pretrained(str(packaged_path(DEFAULT)), local_files_only=True)
    data = Dataset.from_dict({"text": [e.input for e in train], "label": [e.output for e in train]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = setfit.TrainingArguments(
            output_dir=str(Path(folder)), seed=seed, save_strategy="no", report_to="none", show_progress_bar=False,
            **options,
        )  # fmt: skip
        trainer = setfit.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Clock()])
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    if seconds > most_seconds:
        return seconds, None
    return seconds, _accuracy([str(label) for label in model.predict([e.input for e in held])], held)


def _accuracy(answers: Sequence[str], expected: Sequence[ipt.Example]) -> float:
    return sum(answer == example.output for answer, example in zip(answers, expected, strict=True)) / len(expected)
