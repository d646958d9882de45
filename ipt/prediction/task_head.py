"""A tuned task as prediction uses it: vector, labels and readout, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipt.data.examples import TaskKind
from ipt.errors import CheckpointError, SubspaceMismatchError
from ipt.readout.calibration import IDENTITY, Calibration
from ipt.readout.readout import Readout
from ipt.readout.scope import Scope
from ipt.subspace.subspace import Subspace


@dataclass(frozen=True)
class TaskHead:
    """Everything that distinguishes one task from another. `vector` [D] is valid in the subspace `subspace_id` only."""

    vector: NDArray[np.float32]
    subspace_id: str
    kind: TaskKind
    labels: tuple[str, ...]
    readout: bytes | None
    scope: bytes | None = field(default=None, repr=False)
    """`ipt.readout.scope`; None for tasks that were tuned before there were scopes, and on text backbones."""
    calibration: Calibration = IDENTITY
    """Of a text's confidence; the identity for tasks that were not calibrated."""


@dataclass(frozen=True, eq=False)
class BoundTask:
    """A task head that has been checked against a subspace, with its vector [D], parsed readout and scope."""

    head: TaskHead
    vector: Tensor = field(repr=False)
    readout: Readout | None = field(repr=False)
    scope: Scope | None = field(default=None, repr=False)

    @property
    def labels(self) -> Sequence[str]:
        return self.head.labels


def bind(head: TaskHead, subspace: Subspace) -> BoundTask:
    """Check a task against a subspace, and parse its readout.

    Raises:
        SubspaceMismatchError: the vector belongs to another subspace.
        CheckpointError: the vector, the readout or the scope is damaged.
    """
    if head.subspace_id != subspace.id:
        raise SubspaceMismatchError(
            f"the task vector belongs to subspace {head.subspace_id}, but subspace {subspace.id} is in use: "
            "serve that subspace too (IPT_EARLIER_SUBSPACES), or adapt the task again"
        )
    vector = torch.as_tensor(np.array(head.vector, dtype=np.float32))
    if vector.shape != (subspace.intrinsic_dim,) or not torch.isfinite(vector).all():
        raise CheckpointError(
            f"a task vector must be {subspace.intrinsic_dim} finite floats, got shape {list(vector.shape)}"
        )
    readout = None
    if head.readout is not None:
        readout = Readout.from_bytes(head.readout, len(head.labels), subspace.hidden_size)
        if head.kind == "multilabel" and readout.thresholds is None:
            raise CheckpointError("the readout of a multi-label task must have a threshold for each label")
    scope = None
    if head.scope is not None:
        scope = Scope.from_bytes(head.scope, len(head.labels), subspace.hidden_size)
    return BoundTask(head, vector, readout, scope)
