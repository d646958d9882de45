"""A measurement: the score of one method on one task with one draw of examples; and E_rel over many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Detail = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Measurement:
    """One method's accuracy, or exact match, on one task with one draw of examples."""

    task: str
    family: str
    seed: int
    method: str
    score: float
    seconds: float
    """An equal share of the time of all draws that were measured together."""
    detail: Detail
    device: str | None = None
    """The kind of device, and the precision."""
    rows: str | None = None
    """`rows_hash` of the rows that examples are drawn from and the rows that are scored; None in old measurements."""

    @property
    def key(self) -> tuple[str, int, str]:
        return self.task, self.seed, self.method

    def is_on(self, rows: str | None) -> bool:
        """Return whether it was measured on rows of this `rows_hash`, or may have been if either hash is unknown."""
        return None in (rows, self.rows) or rows == self.rows


def e_rel(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Return IST's score divided by PT's for each task, both averaged over the draws that have both."""
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for measurement in measurements:
        by_method = scores.setdefault(measurement.task, {})
        by_method.setdefault(measurement.method, {})[measurement.seed] = measurement.score
    relative = {}
    for task, by_method in scores.items():
        ist, pt = by_method.get("IST", {}), by_method.get("PT", {})
        seeds = ist.keys() & pt.keys()
        if seeds and any(pt[seed] for seed in seeds):
            relative[task] = sum(ist[seed] for seed in seeds) / sum(pt[seed] for seed in seeds)
    return relative
