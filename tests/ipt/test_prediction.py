"""Prediction for rows of many tasks: each row is answered by its own task, whoever its neighbours are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ipt
from ipt.backbones.encoder import EncoderBackbone
from tests.ipt.conftest import sentiment, topics


@pytest.fixture(scope="module")
def heads(encoder: EncoderBackbone, subspace: ipt.Subspace) -> list[ipt.TaskHead]:
    asked = ipt.Hyperparameters(steps=6, batch_size=8, learning_rate=0.1)
    return [
        ipt.head_of(ipt.adapt(encoder, subspace, examples, hyperparameters=asked))
        for examples in (sentiment(), topics())
    ]


@pytest.fixture
def predictor(encoder: EncoderBackbone, subspace: ipt.Subspace) -> ipt.Predictor:
    return ipt.Predictor(encoder, subspace)


def test_rows_of_many_tasks_are_answered_as_each_alone(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    texts = ["good movie", "refund the invoice please , it was charged twice", "bad", "hello , love this app , thanks"]
    rows = [(heads[turn % 2], text) for turn, text in enumerate(texts * 2)]
    together = predictor.predict(rows)
    for (head, text), answer in zip(rows, together, strict=True):
        (alone,) = predictor.predict([(head, text)])
        assert alone.label == answer.label
        assert alone.scores is not None
        assert answer.scores is not None
        assert list(answer.scores) == list(head.labels)
        np.testing.assert_allclose(list(answer.scores.values()), list(alone.scores.values()), atol=1e-5)
        assert sum(answer.scores.values()) == pytest.approx(1.0, abs=1e-5)
        assert answer.label == max(answer.scores, key=answer.scores.__getitem__)


def test_the_vector_decides_the_answer(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    moved = replace(heads[0], vector=heads[0].vector + np.float32(3.0))
    given, other = predictor.predict([(heads[0], "good movie"), (moved, "good movie")])
    assert given.scores != other.scores


def test_no_rows_give_no_answers(predictor: ipt.Predictor) -> None:
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [(3, "must be a string, got int"), ("a\x00b", "NUL"), ("a\ud800", "lone surrogate"), (None, "must be a string")],
)
def test_a_text_that_is_none_is_refused_by_row(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], text: str, says: str
) -> None:
    with pytest.raises(ipt.IptError, match=says) as caught:
        predictor.predict([(heads[0], "good"), (heads[0], text)])
    assert caught.value.param == "rows[1]"


@pytest.mark.parametrize("row", ["good", ("good", "movie"), ("good",), 3])
def test_a_row_that_is_no_task_and_text_is_refused(predictor: ipt.Predictor, row: Any) -> None:
    with pytest.raises(ipt.IptError, match=r"rows\[0\] must be a pair"):
        predictor.predict([row])


def test_a_vector_of_another_subspace_is_an_error(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    stranger = replace(heads[0], subspace_id="sub_other")
    with pytest.raises(ipt.SubspaceMismatchError, match="sub_other"):
        predictor.predict([(heads[0], "good"), (stranger, "good")])


@pytest.mark.parametrize(
    "vector", [np.zeros(7, np.float32), np.full(8, np.nan, np.float32), np.zeros((1, 8), np.float32)]
)
def test_a_damaged_vector_is_an_error(predictor: ipt.Predictor, heads: list[ipt.TaskHead], vector: np.ndarray) -> None:
    with pytest.raises(ipt.CheckpointError, match="8 finite floats"):
        predictor.predict([(replace(heads[0], vector=vector), "good")])


def test_a_readout_for_other_labels_is_an_error(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    with pytest.raises(ipt.CheckpointError):
        predictor.bind(replace(heads[0], labels=("a", "b", "c")))
    with pytest.raises(ipt.CheckpointError, match="readout"):
        predictor.bind(replace(heads[0], readout=None))
