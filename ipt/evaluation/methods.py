"""The evaluation methods by name: methods of a report, and the variants that ablations compare."""

from __future__ import annotations

from collections import ChainMap

import torch
from torch import Tensor

from ipt.errors import SubspaceError
from ipt.evaluation.baselines import class_names, logistic_regression, nearest_neighbours
from ipt.evaluation.protocol import Method
from ipt.evaluation.tuned_methods import (
    PromptTuning,
    RandomSubspaceTuning,
    SubspaceThenPromptTuning,
    SubspaceTuning,
)
from ipt.evaluation.untuned_methods import LEANING_WEIGHT, Baseline, SetFit, UntunedReadout
from ipt.subspace.subspace import Subspace


def _by_name(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


def _zero(subspace: Subspace, _seed: int) -> Tensor:
    return torch.zeros(1, subspace.intrinsic_dim)


def _nearest_task(subspace: Subspace, seed: int) -> Tensor:
    """The zero vector and every task's vector; the engine chooses among them as among initial vectors."""
    return torch.cat([_zero(subspace, seed), _task_vectors(subspace)])


def _random_vector(subspace: Subspace, seed: int) -> Tensor:
    """A vector with the standard deviation of the tasks' vectors in each dimension."""
    generator = torch.Generator().manual_seed(seed)
    return _task_vectors(subspace).std(dim=0) * torch.randn(1, subspace.intrinsic_dim, generator=generator)


def _task_vectors(subspace: Subspace) -> Tensor:
    if subspace.task_vectors is None:
        raise SubspaceError(f"subspace {subspace.id} was saved without task vectors, which this start needs")
    return subspace.task_vectors


METHODS: dict[str, Method] = _by_name(
    Baseline("class names", class_names),
    Baseline("logistic regression", logistic_regression),
    Baseline("nearest neighbours", nearest_neighbours),
    SetFit("SetFit"),
    PromptTuning("PT"),
    RandomSubspaceTuning("random"),
    SubspaceTuning("IST"),
    SubspaceThenPromptTuning("IST then PT"),
)
"""The methods of a report, in its order."""
STARTS: dict[str, Method] = _by_name(
    SubspaceTuning("IST from zero", _zero),
    SubspaceTuning("IST from the nearest task", _nearest_task),
    SubspaceTuning("IST from a random vector", _random_vector),
)
"""IST from other starts than the likeliest of the subspace's initial vectors."""
START: dict[str, Method] = _by_name(SubspaceTuning("start", steps=0))
"""The likeliest of the subspace's initial vectors, untuned: what IST adds to it is the gain of tuning."""
READOUTS: dict[str, Method] = _by_name(
    UntunedReadout("readout on prompted embeddings", None),
    UntunedReadout("readout on both, without the labels' names", 1.0, use_label_names=False),
    UntunedReadout("readout on both", 1.0),
    UntunedReadout("readout on both, even with the baseline", 0.5),
    UntunedReadout("readout on both, leaning on the baseline", LEANING_WEIGHT),
)
"""Readouts with the prompt of the first initial vector, untuned, and different weights of the prompted embeddings."""
ALL_METHODS = ChainMap(METHODS, STARTS, START, READOUTS)


def method_named(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ValueError: there is no such method.
    """
    if name not in ALL_METHODS:
        raise ValueError(f"unknown method {name!r}; allowed: {', '.join(ALL_METHODS)}")
    return ALL_METHODS[name]
