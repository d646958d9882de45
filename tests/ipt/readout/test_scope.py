"""Scopes: which texts belong to no label of a task."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ipt.errors import CheckpointError
from ipt.readout.embeddings import Embeddings
from ipt.readout.scope import DIRECTIONS, SHRINKAGE, Scope, fit_scope, in_scope_of_rows

HIDDEN = 24
CLASSES = 4


def drawn(centers: Tensor, per_class: int, seed: int) -> Embeddings:
    """Return rows around each of `centers` [C, 2H], class by class."""
    generator = torch.Generator().manual_seed(seed)
    rows = centers.repeat_interleave(per_class, dim=0)
    rows = rows + 0.25 * torch.randn(rows.shape, generator=generator)
    return Embeddings(F.normalize(rows[:, :HIDDEN], dim=1), F.normalize(rows[:, HIDDEN:], dim=1))


def centers(seed: int, count: int = CLASSES) -> Tensor:
    return torch.randn(count, 2 * HIDDEN, generator=torch.Generator().manual_seed(seed))


def fitted(per_class: int = 8, outside: Embeddings | None = None) -> Scope:
    classes = torch.arange(CLASSES).repeat_interleave(per_class)
    scope = fit_scope(drawn(centers(0), per_class, 1), classes, CLASSES, range(len(classes)), outside)
    assert scope is not None
    return scope


def in_scope(scope: Scope, embeddings: Embeddings) -> Tensor:
    return torch.tensor(in_scope_of_rows([scope] * len(embeddings), embeddings))


def test_texts_far_from_every_label_are_out_of_scope() -> None:
    scope = fitted()
    assert in_scope(scope, drawn(centers(0), 20, 2)).min() > 0.5
    assert in_scope(scope, drawn(centers(9, 20), 5, 3)).max() < 0.5


def test_the_distance_is_mahalanobis_with_a_shrunk_covariance() -> None:
    per_class = 8
    rows = drawn(centers(0), per_class, 1).features().double()
    means = rows.view(CLASSES, per_class, -1).mean(dim=1)
    spread = rows - means.repeat_interleave(per_class, dim=0)
    values, vectors = torch.linalg.eigh(spread.T @ spread / len(rows))
    kept = vectors[:, -DIRECTIONS:] * values[-DIRECTIONS:] @ vectors[:, -DIRECTIONS:].T
    noise = SHRINKAGE * spread.square().mean()
    precision = torch.linalg.inv((1 - SHRINKAGE) * kept + noise * torch.eye(2 * HIDDEN)) * noise
    asked = drawn(centers(5), 3, 4)
    between = asked.features().double()[:, None] - means
    distances = torch.einsum("bcf,fg,bcg->bc", between, precision, between).amin(dim=1)
    scope = fitted(per_class)
    expected = torch.sigmoid(scope.intercept - scope.slope * distances.log())
    np.testing.assert_allclose(in_scope(scope, asked), expected, atol=0.01)  # eight-bit weights


def test_half_of_the_probability_lies_between_examples_and_known_texts_without_a_label() -> None:
    near = drawn(0.9 * centers(0) + 0.6 * centers(0).roll(1, dims=0), 20, 5)
    unaware, aware = fitted(), fitted(outside=near)
    asked = drawn(0.9 * centers(0) + 0.6 * centers(0).roll(1, dims=0), 20, 6)
    assert in_scope(unaware, asked).mean() > 0.5
    assert in_scope(aware, asked).mean() < 0.35
    assert in_scope(aware, drawn(centers(0), 20, 7)).mean() > 0.65


def test_a_batch_of_several_tasks_is_answered_as_each_task_alone() -> None:
    first, second = fitted(), fitted(per_class=5)
    rows = drawn(centers(3), 2, 8)
    scopes = [first, second, None, first, None, second, second, first]
    together = in_scope_of_rows(scopes, rows)
    for row, scope in enumerate(scopes):
        alone = in_scope_of_rows([scope], rows.rows(slice(row, row + 1)))[0]
        assert together[row] == (None if alone is None else pytest.approx(alone, abs=1e-5))


def test_the_bytes_of_a_scope_are_few_and_are_read_again() -> None:
    scope = fitted()
    data = scope.to_bytes()
    assert len(data) < (CLASSES + DIRECTIONS) * (2 * HIDDEN + 8) + 400
    read = Scope.from_bytes(data, CLASSES, HIDDEN)
    rows = drawn(centers(3), 2, 8)
    assert in_scope(read, rows).tolist() == in_scope(scope, rows).tolist()
    for damaged, classes in ((data[:12], CLASSES), (data, CLASSES + 1), (b"\xff" * 16 + data[16:], CLASSES)):
        with pytest.raises(CheckpointError):
            Scope.from_bytes(damaged, classes, HIDDEN)


def test_without_examples_that_can_be_left_out_there_is_no_scope() -> None:
    rows = drawn(centers(0), 2, 1)
    classes = torch.arange(CLASSES).repeat_interleave(2)
    one_text_per_label = classes.tolist()
    assert fit_scope(rows, classes, CLASSES, one_text_per_label) is None
