"""A file of measurements, one JSON object per line, from which an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from ipt.errors import CheckpointError
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.methods import ALL_METHODS

IdentityOf = Callable[[str], dict[str, object]]
"""Returns everything that two measurements of a method must share to be comparable."""


class MeasurementFile:
    """The measurements of one run in a file. Lines of other runs, and torn lines, are ignored and kept."""

    def __init__(self, path: Path, identity: IdentityOf, subspaces: Collection[object] = ()) -> None:
        """Read the measurements of this run.

        Args:
            path: the file; it may be missing.
            identity: identifies this run.
            subspaces: ids of other subspaces with the same backbone, prompt length and prompt placement. Measurements
                of these subspaces count too if their method does not use the subspace.

        Raises:
            CheckpointError: the file has a line of JSON that is not a measurement.
        """
        self.path = path
        self._identity = cache(identity)  # called for each line
        self._subspaces = subspaces
        self._measurements: dict[tuple[str, int, str], list[Measurement]] = {}
        if path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                try:
                    run = record.pop("run")
                    subspace = run["subspace"]
                    measurement = Measurement(**record)
                except (KeyError, TypeError, AttributeError):
                    raise CheckpointError(
                        f"{path}:{number}: not a measurement, so this file has another purpose: choose another name"
                    ) from None
                if self._is_of_this_run(measurement.method, run, subspace) and not self.has(
                    *measurement.key, measurement.rows
                ):
                    self._measurements.setdefault(measurement.key, []).append(measurement)

    @property
    def measurements(self) -> list[Measurement]:
        return list(chain.from_iterable(self._measurements.values()))

    def add(self, measurement: Measurement) -> None:
        """Append a measurement to the file."""
        self._measurements.setdefault(measurement.key, []).append(measurement)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A torn last line must not swallow this one.
        whole = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            record = {"run": self._identity(measurement.method), **asdict(measurement)}
            file.write(("" if whole else "\n") + json.dumps(record) + "\n")

    def has(self, task: str, seed: int, method: str, rows: str | None = None) -> bool:
        """Return whether there is such a measurement, on rows of this `rows_hash` if it is given."""
        return any(measurement.is_on(rows) for measurement in self._measurements.get((task, seed, method), ()))

    def _is_of_this_run(self, method: str, run: dict[str, Any], subspace: object) -> bool:
        identity = self._identity(method)
        shared = method in ALL_METHODS and not ALL_METHODS[method].uses_subspace
        if shared and subspace in self._subspaces:
            return run | {"subspace": None} == identity | {"subspace": None}
        return run == identity
