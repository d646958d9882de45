"""Averages of measurements over tasks and draws, and their Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ipt.evaluation.measurements import Measurement, e_rel

Point = tuple[float, float | None]
"""A mean over tasks, and its standard deviation over the draws; None if there is one draw."""


def of_method(measurements: Sequence[Measurement], method: str) -> list[Measurement]:
    return [each for each in measurements if each.method == method]


def on_common_draws(groups: Sequence[Sequence[Measurement]]) -> list[list[Measurement]]:
    """Return from each group the measurements on tasks and draws that all groups have."""
    common = set.intersection(*({(each.task, each.seed) for each in group} for group in groups))
    return [[each for each in group if (each.task, each.seed) in common] for group in groups]


def scores_by_task(measurements: Sequence[Measurement], method: str) -> dict[str, list[float]]:
    """Return a method's scores of each task, one per draw, in per cent."""
    scores: dict[str, list[float]] = {}
    for measurement in of_method(measurements, method):
        scores.setdefault(measurement.task, []).append(100 * measurement.score)
    return scores


def mean_score(measurements: Sequence[Measurement]) -> Point | None:
    """Return the mean score over tasks, in per cent, and its standard deviation over the draws."""
    by_seed: dict[int, list[float]] = {}
    for measurement in measurements:
        by_seed.setdefault(measurement.seed, []).append(100 * measurement.score)
    return _mean_and_deviation([statistics.mean(scores) for scores in by_seed.values()])


def mean_e_rel(measurements: Sequence[Measurement]) -> Point | None:
    """Return the mean E_rel over tasks, and its standard deviation over the draws."""
    relative = e_rel(measurements)
    if not relative:
        return None
    seeds = {each.seed for each in measurements}
    of_draws = [e_rel([each for each in measurements if each.seed == seed]) for seed in seeds]
    spread = _mean_and_deviation([statistics.mean(ratios.values()) for ratios in of_draws if ratios])
    return statistics.mean(relative.values()), spread[1] if spread else None


def cell(measurements: Sequence[Measurement], method: str) -> str:
    """Return a method's mean score, as a table shows it."""
    return with_spread(mean_score(of_method(measurements, method)), ".1f")


def with_spread(point: Point | None, style: str) -> str:
    """Return a mean ± standard deviation, as a table shows it."""
    if point is None:
        return "–"
    mean, deviation = point
    return f"{mean:{style}}" if deviation is None else f"{mean:{style}} ± {deviation:{style}}"


def extent(measurements: Sequence[Measurement], what: str = "task") -> tuple[str, str]:
    """Return how many tasks and how many draws there are, in words."""
    counts = (what, len({each.task for each in measurements})), ("draw", len({each.seed for each in measurements}))
    tasks, draws = (f"{count} {name}" if count == 1 else f"{count} {name}s" for name, count in counts)
    return tasks, draws


def _mean_and_deviation(values: Sequence[float]) -> Point | None:
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
