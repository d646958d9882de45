"""Choose labels by their probabilities: the most probable ones, or samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Outcome = TypeVar("Outcome", str, bool)

_LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of 0, as in OpenAI's API."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A choice of a request: its labels, the probabilities of the labels that it could have, and its text."""

    labels: list[str]
    scores: dict[str, float]
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of a choice; without a temperature above 0, the most probable label is chosen."""

    temperature: float | None
    top_p: float | None
    seed: int | None


def choose(scores: Mapping[str, float], count: int, sampling: Sampling) -> list[str]:
    """Return `count` labels; the same seed chooses the same ones."""
    if not sampling.temperature:
        return [max(scores, key=scores.__getitem__)] * count
    return _draw(scores, count, sampling, np.random.default_rng(sampling.seed))


def choose_sets(
    scores: Mapping[str, float], answered: Sequence[str], count: int, sampling: Sampling
) -> list[list[str]]:
    """Return `count` sets of labels, the most probable label first; the same seed chooses the same ones.

    Args:
        scores: the probability of each label.
        answered: the labels that reach their thresholds; they are chosen without a temperature above 0.
        count: the number of sets.
        sampling: draws every label with its own probability.
    """
    if not sampling.temperature:
        return [[label for label in answered if label in scores]] * count
    rng = np.random.default_rng(sampling.seed)
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    draws = [_draw({True: scores[label], False: 1 - scores[label]}, count, sampling, rng) for label in ranked]
    return [
        [label for label, is_chosen in zip(ranked, row, strict=True) if is_chosen] for row in zip(*draws, strict=True)
    ]


def _draw(scores: Mapping[Outcome, float], count: int, sampling: Sampling, rng: np.random.Generator) -> list[Outcome]:
    """Draw `count` outcomes at a temperature above 0."""
    assert sampling.temperature
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    logits = np.log(np.maximum([scores[outcome] for outcome in ranked], 1e-300)) / sampling.temperature
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    if sampling.top_p is not None:
        # The fewest outcomes with this total probability, and at least one.
        weights[1:][np.cumsum(weights)[:-1] >= sampling.top_p] = 0
        weights /= weights.sum()
    return [ranked[index] for index in rng.choice(len(ranked), size=count, p=weights)]


def logprob(score: float) -> float:
    """Return the natural logarithm of a probability."""
    return math.log(score) if score > 0 else _LEAST_LOGPROB


def top_logprobs(scores: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    """Return the `count` most probable labels with the logarithms of their probabilities."""
    ranked = sorted(scores.items(), key=lambda entry: entry[1], reverse=True)
    return [(label, logprob(score)) for label, score in ranked[:count]]


def cut(text: str, stops: list[str]) -> str:
    """Return a text up to the first of the stop strings."""
    ends = [position for stop in stops if (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
