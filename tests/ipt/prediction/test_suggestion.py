"""Suggestions are uncertain texts, and different ones."""

import numpy as np
import pytest

import ipt
from ipt.prediction.suggestion import uncertainties


def blobs(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings of well separated groups of texts, and the group of each text."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return (10 * np.eye(len(sizes), 12)[groups] + 0.1 * rng.normal(size=(len(groups), 12))).astype(np.float32), groups


def test_every_uncertain_group_is_suggested_once_however_large_it_is() -> None:
    embeddings, groups = blobs([40, 5, 5, 200])
    scores = np.full((250, 2), 0.5)
    scores[groups == 3] = [0.999, 0.001]
    chosen = ipt.suggest(scores, embeddings, 3)
    assert sorted(groups[chosen]) == [0, 1, 2]
    assert groups[chosen[0]] == 0, "the group with the most uncertain texts comes first"


def test_suggestions_are_distinct_and_reproducible() -> None:
    rng = np.random.default_rng(3)
    embeddings = np.repeat(rng.normal(size=(5, 8)), 4, axis=0).astype(np.float32)
    scores = rng.dirichlet(np.ones(3), 20)
    chosen = ipt.suggest(scores, embeddings, 12, seed=1)
    assert len(set(chosen)) == 12
    assert chosen == ipt.suggest(scores, embeddings, 12, seed=1)
    assert sorted(ipt.suggest(scores, embeddings, 99)) == list(range(20))
    assert ipt.suggest(scores[:0], embeddings[:0], 3) == []


def test_uncertainty_is_one_less_the_margin() -> None:
    scores = np.array([[0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(uncertainties(scores), [1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("scores", "embeddings", "count", "param"),
    [((3, 2), (4, 8), 1, "scores"), ((3, 1), (3, 8), 1, "scores"), ((3, 2), (3, 8), 0, "count")],
)
def test_wrong_arguments_are_named(
    scores: tuple[int, int], embeddings: tuple[int, int], count: int, param: str
) -> None:
    with pytest.raises(ipt.IptError) as caught:
        ipt.suggest(np.ones(scores), np.ones(embeddings, dtype=np.float32), count)
    assert caught.value.param == param
