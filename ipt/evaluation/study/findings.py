"""What a study finds: subspaces, measurements, and the parts that it leaves out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

from ipt.errors import IptError
from ipt.evaluation.measurements import Measurement
from ipt.subspace.subspace import Subspace


class SkippedPartError(IptError):
    """A part of a study cannot be done; the study continues without it."""


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: what was changed, and one method's measurements on the unseen tasks."""

    name: str
    measurements: list[Measurement]


@dataclass
class Findings:
    """Everything that a study has found so far."""

    subspaces: dict[int, Subspace] = field(default_factory=dict)
    """By dimension."""
    splits: dict[str, dict[int, list[Measurement]]] = field(default_factory=lambda: {"seen": {}, "unseen": {}})
    """The measurements on seen and on unseen tasks, by dimension."""
    curve: dict[int, list[Measurement]] = field(default_factory=dict)
    """By number of examples per label."""
    ablations: dict[str, list[Variant]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """The tasks and parts that could not be used, and why."""

    @property
    def measured(self) -> list[Measurement]:
        """All measurements."""
        by_dimension = (measured for of_split in self.splits.values() for measured in of_split.values())
        of_variants = (variant.measurements for variants in self.ablations.values() for variant in variants)
        return list(chain.from_iterable([*by_dimension, *self.curve.values(), *of_variants]))

    @property
    def reference(self) -> Subspace:
        """The subspace of the largest dimension."""
        return self.subspaces[max(self.subspaces)]

    def leave_out(self, *reasons: str) -> None:
        """Note reasons that are not noted yet."""
        self.left_out += [reason for reason in dict.fromkeys(reasons) if reason not in self.left_out]
