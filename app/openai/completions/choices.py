"""Choose labels by their probabilities: the most probable one, or samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of 0, as in OpenAI's API."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of a choice; without a temperature above 0, the most probable label is chosen."""

    temperature: float | None
    top_p: float | None
    seed: int | None


def choose(scores: Mapping[str, float], count: int, sampling: Sampling) -> list[str]:
    """Return `count` labels; the same seed chooses the same ones."""
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    if not sampling.temperature:
        return [ranked[0]] * count
    logits = np.log(np.maximum([scores[label] for label in ranked], 1e-300)) / sampling.temperature
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    if sampling.top_p is not None:
        # The fewest labels with this total probability, and at least one.
        weights[1:][np.cumsum(weights)[:-1] >= sampling.top_p] = 0
        weights /= weights.sum()
    rng = np.random.default_rng(sampling.seed)
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
