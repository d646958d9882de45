"""Compare two classifiers on the same rows.

Letters: M rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Rows that only one of two classifiers answers right, and how likely that is if both are equally good."""

    rows: int
    only_first_right: int
    only_second_right: int
    p_value: float
    """Of McNemar's exact test (McNemar, 1947): two-sided, from the binomial distribution of the rows in which the
    classifiers differ."""


def compare(first_right: Sequence[bool], second_right: Sequence[bool]) -> Comparison:
    """Compare two classifiers by whether each answers each of the same rows [M] right."""
    pairs = list(zip(first_right, second_right, strict=True))
    only_first = sum(first and not second for first, second in pairs)
    only_second = sum(second and not first for first, second in pairs)
    return Comparison(len(pairs), only_first, only_second, mcnemar_p_value(only_first, only_second))


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the probability of a split at least as uneven as this one, if either side is as likely for each row."""
    differing = only_first + only_second
    ways = sum(math.comb(differing, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, ways / (1 << differing) * 2)
