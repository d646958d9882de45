"""Measurements as a Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ipt.evaluation.measurements import Measurement, e_rel


def render(
    measurements: Sequence[Measurement], methods: Sequence[str], about: str, left_out: Sequence[str] = ()
) -> str:
    """Return a page: a title, a paragraph, `score_table`, and the notes in `left_out` if there are any."""
    page = ["# Evaluation", "", about, "", *score_table(measurements, methods), ""]
    if left_out:
        page += ["## Skipped tasks and notes", "", *(f"- {note}" for note in left_out), ""]
    return "\n".join(page)


def score_table(measurements: Sequence[Measurement], methods: Sequence[str]) -> list[str]:
    """Return the lines of a table: for each task the mean score of each method ± standard deviation, and E_rel.

    Means are over the draws of examples, in per cent. The last row has the means over the tasks, of the standard
    deviations too.
    """
    present = [method for method in methods if any(each.method == method for each in measurements)]
    scores: dict[tuple[str, str], list[float]] = {}
    for each in measurements:
        scores.setdefault((each.task, each.method), []).append(100 * each.score)
    tasks = sorted({each.task for each in measurements})
    relative = e_rel(measurements)
    header = ["task", *present, *(["E_rel"] if relative else [])]
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]

    def row(name: str, columns: Sequence[list[list[float]]], ratios: Sequence[float]) -> str:
        cells = [mean_and_spread(column) for column in columns]
        if relative:
            cells.append(f"{statistics.mean(ratios):.3f}" if ratios else "–")
        return f"| {' | '.join([name, *cells])} |"

    def of(task: str, method: str) -> list[list[float]]:
        return [scores[task, method]] if (task, method) in scores else []

    lines += [
        row(task, [of(task, method) for method in present], [relative[task]] if task in relative else [])
        for task in tasks
    ]
    all_tasks = [[draws for task in tasks for draws in of(task, method)] for method in present]
    return [*lines, row("**mean**", all_tasks, list(relative.values()))]


def mean_and_spread(of_tasks: Sequence[Sequence[float]]) -> str:
    """Return the mean over tasks of the mean over draws, ± the mean standard deviation if there are several draws."""
    if not of_tasks:
        return "–"
    mean = statistics.mean(statistics.mean(draws) for draws in of_tasks)
    spreads = [statistics.stdev(draws) for draws in of_tasks if len(draws) > 1]
    return f"{mean:.1f} ± {statistics.mean(spreads):.1f}" if spreads else f"{mean:.1f}"
