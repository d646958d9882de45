"""What suggestions are worth: accuracy after labelling texts that `ipt.suggest` chose, and texts chosen at random.

    python -m benchmarks.suggestions TASKS [--seeds 10] [--pool 300]

TASKS is a folder of tasks whose index.json names unseen tasks. Each task begins with two examples per label; three
times, 16 texts of a pool are labelled. The classifier is logistic regression on the backbone's frozen embeddings, which
is the part of a task's readout that can be refitted at once. Prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray

import ipt
from benchmarks.engines.backbones import load_minilm
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder
from ipt.prediction.predictor import Predictor
from ipt.readout.linear_classifier import LinearClassifier, fit_linear

ROUNDS, PER_ROUND, FIRST_PER_LABEL, TEST_ROWS = 3, 16, 2, 250
EASY = 85.0
"""Accuracy of random choice, in per cent, from which a task counts as easy."""

Choose = Callable[[NDArray[np.float64], NDArray[np.float32], int, int], list[int]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suggestions", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", type=Path, help="folder of tasks, with index.json")
    parser.add_argument("--seeds", type=int, default=10, help="number of draws of pools and first examples")
    parser.add_argument("--pool", type=int, default=300, help="most unlabelled texts of a task")
    args = parser.parse_args(arguments)
    backbone = load_minilm(None, "cpu")
    predictor = Predictor(backbone, ipt.load_subspace("default", backbone))
    rows = []
    print(f"{'task':32}{'random':>8}{'suggested':>11}")
    for task in read_task_folder(args.tasks, "unseen").tasks:
        embeddings = Embeddings(predictor)
        accuracies = [measure(task, embeddings, seed, args.pool) for seed in range(args.seeds)]
        random, suggested = (100 * mean(column) for column in zip(*accuracies, strict=True))
        rows.append((random, suggested))
        print(f"{task.name:32}{random:8.1f}{suggested:11.1f}", flush=True)
    for name, kept in (("all tasks", rows), (f"below {EASY:.0f} %", [row for row in rows if row[0] < EASY])):
        if kept:
            print(f"{name:32}{mean(row[0] for row in kept):8.1f}{mean(row[1] for row in kept):11.1f}")


class Embeddings:
    """Frozen embeddings of texts, computed once each: the draws of a task share most of its texts."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings [N, H] of the texts."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            self._known.update(zip(new, self._predictor.embed_frozen(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def measure(task: TaskDataset, frozen: Embeddings, seed: int, pool_size: int) -> tuple[float, float]:
    """Return the accuracies after all rounds of random texts and of suggested texts, from the same start."""
    rng = np.random.default_rng(seed)
    train, test = list(task.train), list(task.test)
    labels = sorted({example.output for example in train})
    class_of = {label: number for number, label in enumerate(labels)}
    pool = [train[row] for row in rng.permutation(len(train))[:pool_size]]
    held_out = [test[row] for row in rng.permutation(len(test))[:TEST_ROWS]]
    pool_classes = np.array([class_of[example.output] for example in pool])
    first: list[int] = []
    for number in range(len(labels)):
        first += np.flatnonzero(pool_classes == number)[:FIRST_PER_LABEL].tolist()
    embedded = frozen.of([example.input for example in [*pool, *held_out]])
    embeddings, test_embeddings = embedded[: len(pool)], embedded[len(pool) :]
    test_classes = np.array([class_of.get(example.output, -1) for example in held_out])

    def accuracy_after(choose: Choose) -> float:
        known = list(first)
        for round_ in range(ROUNDS):
            classifier = fit(known)
            labelled = set(known)
            rest = [row for row in range(len(pool)) if row not in labelled]
            scores = torch.softmax(3 * classifier.logits(torch.from_numpy(embeddings[rest])), dim=1).numpy()
            known += [rest[number] for number in choose(scores, embeddings[rest], PER_ROUND, seed + round_)]
        predicted = fit(known).logits(torch.from_numpy(test_embeddings)).argmax(dim=1).numpy()
        return float((predicted == test_classes).mean())

    def fit(known: list[int]) -> LinearClassifier:
        return fit_linear(torch.from_numpy(embeddings[known]), torch.from_numpy(pool_classes[known]), len(labels))

    return accuracy_after(at_random), accuracy_after(suggested)


def at_random(_: NDArray[np.float64], embeddings: NDArray[np.float32], count: int, seed: int) -> list[int]:
    return [int(number) for number in np.random.default_rng(seed).permutation(len(embeddings))[:count]]


def suggested(scores: NDArray[np.float64], embeddings: NDArray[np.float32], count: int, seed: int) -> list[int]:
    return ipt.suggest(scores, embeddings, count, seed=seed)


if __name__ == "__main__":
    main()
