"""Measure methods on draws of tasks: on all of them, or only on draws that a file of measurements lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from ipt.data.task_dataset import TaskDataset, rows_hash
from ipt.errors import DatasetError
from ipt.evaluation.measurement_file import MeasurementFile
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.methods import ALL_METHODS, method_named
from ipt.evaluation.protocol import REVISION, Draw, Setup

DRAWS_TOGETHER_ON_GPU = 24
"""Draws that a GPU measures together; a CPU gains nothing by more than one."""


class Evaluation(Setup):
    """Measures methods with one backbone, one subspace and one set of options."""

    def identity(self, method: str) -> dict[str, object]:
        """Return everything that two measurements of the method must share to be comparable, as JSON keeps it.

        Methods that are not in `ALL_METHODS`, such as those of a benchmark, have the general revision.
        """
        options = asdict(self.options)
        del options["hyperparameters"]["seed"]
        options["pt_learning_rates"] = list(self.pt_learning_rates)
        revision = ALL_METHODS[method].revision if method in ALL_METHODS else REVISION
        return {"subspace": self.subspace.id, "revision": revision, **options}

    def measure(self, task: TaskDataset, seed: int, methods: Sequence[str]) -> Iterator[Measurement]:
        """`measure_together` for one draw."""
        return self.measure_together([(task, seed)], methods)

    def measure_together(
        self, pairs: Sequence[tuple[TaskDataset, int]], methods: Sequence[str]
    ) -> Iterator[Measurement]:
        """Measure methods on the examples that each pair's seed draws from its task, method by method.

        Methods that the backbone's family does not support are left out. Each measurement has an equal share of the
        seconds.

        Raises:
            DatasetError: a task has no test rows or cannot be tuned on.
            IptError: a method needs a package that is not installed.
        """
        for task, _ in pairs:
            if not task.test:
                raise DatasetError(f"{task.name}: has no test rows to measure on")
        draws = [Draw(task, seed, self) for task, seed in pairs]
        for name in methods:
            yield from method_named(name).measure(self, draws)


def measure_missing(
    evaluation: Evaluation,
    file: MeasurementFile,
    tasks: Sequence[TaskDataset],
    seeds: Sequence[int],
    methods: Sequence[str],
    on_pair: Callable[[int, int, str], None],
    *,
    only_kept: bool = False,
) -> Iterator[Measurement]:
    """Yield measurements of all methods, tasks and seeds: first those in the file, then the others, adding them to it.

    With `only_kept` nothing is measured. `on_pair` is called with pairs done, pairs in all, and the next task.
    """
    pairs = [(task, seed) for seed in seeds for task in tasks]
    rows = {task.name: rows_hash(task.train, task.test) for task in tasks}
    requested = {(task.name, seed, method) for task, seed in pairs for method in methods}
    yield from [each for each in file.measurements if each.key in requested and each.is_on(rows[each.task])]
    if only_kept:
        return
    at_once = DRAWS_TOGETHER_ON_GPU if evaluation.backbone.device.type == "cuda" else 1
    for number in range(0, len(pairs), at_once):
        group = pairs[number : number + at_once]
        on_pair(number, len(pairs), group[0][0].name)
        by_missing: dict[tuple[str, ...], list[tuple[TaskDataset, int]]] = {}
        for task, seed in group:
            missing = tuple(method for method in methods if not file.has(task.name, seed, method, rows[task.name]))
            by_missing.setdefault(missing, []).append((task, seed))
        for missing, same_methods in by_missing.items():
            for measurement in evaluation.measure_together(same_methods, missing):
                file.add(measurement)
                yield measurement
    on_pair(len(pairs), len(pairs), "")
