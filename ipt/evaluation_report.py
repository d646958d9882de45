"""Measurements of a subspace kept as lines of JSON, and told as a Markdown table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ipt.evaluation import Measurement, e_rel


class MeasurementFile:
    """Measurements in a file, one a line; a line that a killed process left unfinished does not count."""

    def __init__(self, path: Path, identity: dict[str, object]) -> None:
        """`identity` is all that makes measurements comparable: those of other runs in the file are left alone."""
        self.path = path
        self._identity = identity
        self.measurements: list[Measurement] = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if record.pop("run", None) == identity:
                    self.measurements.append(Measurement(**record))

    def add(self, measurement: Measurement) -> None:
        """Keep one more, on disk at once."""
        self.measurements.append(measurement)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line that was cut off must not swallow this one.
        whole = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps({"run": self._identity, **asdict(measurement)}) + "\n")

    def has(self, task: str, seed: int, method: str) -> bool:
        """Whether this was measured already."""
        return any((one.task, one.seed, one.method) == (task, seed, method) for one in self.measurements)


def render(measurements: Sequence[Measurement], methods: Sequence[str], about: str) -> str:
    """A Markdown page: per task the mean score of each method over the draws, E_rel, and the spread of IST and PT.

    Scores are in per cent. The spread is the standard deviation over the draws of examples.
    """
    present = [method for method in methods if any(one.method == method for one in measurements)]
    tasks = sorted({one.task for one in measurements})
    relative = e_rel(measurements)

    def scores(method: str, task: str) -> list[float]:
        return [100 * one.score for one in measurements if (one.method, one.task) == (method, task)]

    def cell(method: str, task: str, of: Callable[[list[float]], float]) -> float | None:
        found = scores(method, task)
        return of(found) if found else None

    def spread(found: list[float]) -> float:
        return statistics.stdev(found) if len(found) > 1 else 0.0

    spreads = [method for method in ("IST", "PT") if method in present]
    rows = []
    for task in tasks:
        values = [cell(method, task, statistics.mean) for method in present]
        values += [cell(method, task, spread) for method in spreads]
        rows.append((task, values, relative.get(task)))
    header = ["task", *present, *(f"sd of {method}" for method in spreads), "E_rel"]
    lines = [
        "# Evaluation",
        "",
        about,
        "",
        f"| {' | '.join(header)} |",
        "| --- |" + " ---: |" * (len(header) - 1),
    ]
    for task, values, ratio in rows:
        lines.append(_line(task, values, ratio))
    means = [_mean([values[i] for _, values, _ in rows]) for i in range(len(header) - 2)]
    lines.append(_line("**mean**", means, _mean([ratio for *_, ratio in rows])))
    return "\n".join([*lines, ""])


def _line(name: str, values: Sequence[float | None], ratio: float | None) -> str:
    cells = ["–" if value is None else f"{value:.1f}" for value in values]
    return f"| {' | '.join([name, *cells, '–' if ratio is None else f'{ratio:.3f}'])} |"


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.mean(found) if found else None
