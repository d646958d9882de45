"""Measurements of a subspace kept as lines of JSON, and told as a Markdown table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from itertools import chain
from pathlib import Path

from ipt.data.task_folder import FolderTask, rows_hash
from ipt.errors import CheckpointError
from ipt.evaluation.methods import OF_BACKBONE, Evaluation, Measurement, e_rel

IdentityOf = Callable[[str], dict[str, object]]
"""Gives all that makes a method's measurements comparable."""
PAIRS_ON_A_DEVICE = 24
"""Pairs of task and draw that a GPU measures together; a CPU gains nothing by more than one."""


class MeasurementFile:
    """Measurements in a file, one a line; a line that a killed process left unfinished does not count."""

    def __init__(self, path: Path, identity: IdentityOf, subspaces: Collection[object] = ()) -> None:
        """Read what there is.

        Args:
            path: the file; it need not be there.
            identity: those of other runs in the file are left alone.
            subspaces: ids of others of the same backbone and prompt length: what was measured beside them counts
                where it does not depend on the subspace.

        Raises:
            CheckpointError: the file holds something else.
        """
        self.path = path
        self._identity = identity = cache(identity)  # asked for each line
        self._measurements: dict[tuple[str, int, str], list[Measurement]] = {}
        if path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                try:
                    run = record.pop("run")
                    of = run["subspace"]
                    measurement = Measurement(**record)
                except (KeyError, TypeError, AttributeError):
                    raise CheckpointError(
                        f"{path}:{number}: not a measurement, so this file is another's: choose another name"
                    ) from None
                wanted = identity(measurement.method)
                same = run == wanted
                if not same and measurement.method in OF_BACKBONE and of in subspaces:
                    same = run | {"subspace": None} == wanted | {"subspace": None}
                if same and not self.has(*_key(measurement), measurement.rows):
                    self._measurements.setdefault(_key(measurement), []).append(measurement)

    @property
    def measurements(self) -> list[Measurement]:
        return list(chain.from_iterable(self._measurements.values()))

    def add(self, measurement: Measurement) -> None:
        """Keep one more, on disk at once."""
        self._measurements.setdefault(_key(measurement), []).append(measurement)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line that was cut off must not swallow this one.
        whole = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            record = {"run": self._identity(measurement.method), **asdict(measurement)}
            file.write(("" if whole else "\n") + json.dumps(record) + "\n")

    def has(self, task: str, seed: int, method: str, rows: str | None = None) -> bool:
        """Whether this was measured already, on these rows (`rows_hash`) where they are given."""
        return any(_on(rows, one) for one in self._measurements.get((task, seed, method), ()))


def measure_missing(
    evaluation: Evaluation,
    kept: MeasurementFile,
    tasks: Sequence[FolderTask],
    seeds: Sequence[int],
    methods: Sequence[str],
    on_pair: Callable[[int, int, str], None],
    *,
    only_kept: bool = False,
) -> Iterator[Measurement]:
    """The methods' measurements on all pairs of task and draw: those that the file has, then the others, made and kept.

    With `only_kept` the others are left out. `on_pair` is called with pairs done, pairs in all, and the next task.
    """
    pairs = [(task, seed) for seed in seeds for task in tasks]
    rows = {task.name: rows_hash(task.train, task.test) for task in tasks}
    wanted = {(task.name, seed, method) for task, seed in pairs for method in methods}
    yield from [one for one in kept.measurements if _key(one) in wanted and _on(rows[one.task], one)]
    if only_kept:
        return
    at_once = PAIRS_ON_A_DEVICE if evaluation.backbone.device.type == "cuda" else 1
    for number in range(0, len(pairs), at_once):
        some = pairs[number : number + at_once]
        on_pair(number, len(pairs), some[0][0].name)
        missing: dict[tuple[str, ...], list[tuple[FolderTask, int]]] = {}
        for task, seed in some:
            lacking = tuple(method for method in methods if not kept.has(task.name, seed, method, rows[task.name]))
            missing.setdefault(lacking, []).append((task, seed))
        for lacking, alike in missing.items():
            for measured in evaluation.measure_together(alike, lacking):
                kept.add(measured)
                yield measured
    on_pair(len(pairs), len(pairs), "")


def render(
    measurements: Sequence[Measurement], methods: Sequence[str], about: str, left_out: Sequence[str] = ()
) -> str:
    """A Markdown page: `score_table` under a title and a paragraph, and what was left out, where something was."""
    page = ["# Evaluation", "", about, "", *score_table(measurements, methods), ""]
    if left_out:
        page += ["## Left out, or to be noted", "", *(f"- {each}" for each in left_out), ""]
    return "\n".join(page)


def score_table(measurements: Sequence[Measurement], methods: Sequence[str]) -> list[str]:
    """Markdown: per task the mean score of each method over the draws of examples ± standard deviation, and E_rel.

    Scores are in per cent. In the last row are the means over the tasks, of the standard deviations as well.
    """
    present = [method for method in methods if any(one.method == method for one in measurements)]
    scores: dict[tuple[str, str], list[float]] = {}
    for one in measurements:
        scores.setdefault((one.task, one.method), []).append(100 * one.score)
    tasks = sorted({one.task for one in measurements})
    relative = e_rel(measurements)
    header = ["task", *present, *(["E_rel"] if relative else [])]
    lines = [f"| {' | '.join(header)} |", "| --- |" + " ---: |" * (len(header) - 1)]

    def row(name: str, found: Sequence[list[list[float]]], ratios: Sequence[float]) -> str:
        cells = [mean_and_spread(of_tasks) for of_tasks in found]
        if relative:
            cells.append(f"{statistics.mean(ratios):.3f}" if ratios else "–")
        return f"| {' | '.join([name, *cells])} |"

    def of(task: str, method: str) -> list[list[float]]:
        return [scores[task, method]] if (task, method) in scores else []

    lines += [
        row(task, [of(task, method) for method in present], [relative[task]] if task in relative else [])
        for task in tasks
    ]
    everywhere = [[found for task in tasks for found in of(task, method)] for method in present]
    return [*lines, row("**mean**", everywhere, list(relative.values()))]


def mean_and_spread(of_tasks: Sequence[Sequence[float]]) -> str:
    """The mean over tasks of the mean over draws, ± that of the standard deviation where there are several."""
    if not of_tasks:
        return "–"
    mean = statistics.mean(statistics.mean(draws) for draws in of_tasks)
    spreads = [statistics.stdev(draws) for draws in of_tasks if len(draws) > 1]
    return f"{mean:.1f} ± {statistics.mean(spreads):.1f}" if spreads else f"{mean:.1f}"


def _on(rows: str | None, measurement: Measurement) -> bool:
    """Whether it was measured on these rows, as far as both are known."""
    return None in (rows, measurement.rows) or rows == measurement.rows


def _key(measurement: Measurement) -> tuple[str, int, str]:
    return measurement.task, measurement.seed, measurement.method
