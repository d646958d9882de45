"""Prediction for rows of many tasks: each row is answered by its own task, whoever its neighbours are."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.readout.embeddings import Embeddings
from ipt.readout.readout import Readout, StackedReadouts
from tests.support.datasets import sentiment, topics


@pytest.fixture(scope="module")
def heads(encoder: EncoderBackbone, subspace: ipt.Subspace) -> list[ipt.TaskHead]:
    asked = ipt.Hyperparameters(steps=6, batch_size=8, learning_rate=0.1)
    return [ipt.adapt(encoder, subspace, examples, hyperparameters=asked).head for examples in (sentiment(), topics())]


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


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_small_ones_grow_back(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(heads[number % 2], f"good movie {number}") for number in range(16)]
    expected = predictor.predict(rows)
    everything = predictor.most_positions
    passes: list[int] = []
    room = 5
    embed_both = EncoderBackbone.embed_both

    def embed(self: EncoderBackbone, token_ids: Any, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        passes.append(len(token_ids))
        if len(token_ids) > room:
            torch.empty(10**15)  # the allocator's own error
        return embed_both(self, token_ids, prompts)

    monkeypatch.setattr(EncoderBackbone, "embed_both", embed)
    answers = predictor.predict(rows)
    assert [answer.label for answer in answers] == [answer.label for answer in expected]
    assert passes[0] == 16
    assert max(passes[-3:]) <= room
    passes.clear()
    predictor.predict(rows)
    assert max(passes) <= room  # what did not fit is not tried again at once
    room = 16
    for _ in range(160):
        predictor.predict(rows)
    assert passes[-1] == 16
    assert predictor.most_positions <= everything


def test_a_row_that_does_not_fit_alone_is_an_error_and_the_next_one_is_answered(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(EncoderBackbone, "embed_both", lambda *_: torch.empty(10**15))
        with pytest.raises(RuntimeError):
            predictor.predict([(heads[0], "good"), (heads[0], "bad")])
    assert predictor.predict([(heads[0], "good")])[0].label is not None


def test_a_text_may_be_given_as_its_tokens(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    text = "refund the invoice please"
    [(ids, _)] = predictor.read([text])
    assert predictor.predict([(heads[0], text), (heads[0], ids)])[1].scores == pytest.approx(
        predictor.predict([(heads[0], text)])[0].scores, abs=1e-5
    )


def test_a_text_that_is_too_long_to_be_read_whole_is_told_from_one_that_just_fits(predictor: ipt.Predictor) -> None:
    most = predictor.backbone.max_input_tokens(predictor.subspace.prompt_length)
    fits, too_long = (" ".join(["good"] * (most - 2 + more)) for more in (0, 1))
    (whole, first), (cut, second), (short, third) = predictor.read([fits, too_long, "good"])
    assert (len(whole), len(short)) == (most, 3)
    assert (first, second, third) == (False, True, False)
    assert [whole, cut, short] == predictor.backbone.tokenize([fits, too_long, "good"])


def test_texts_are_tokenized_in_many_threads_at_once(predictor: ipt.Predictor) -> None:
    texts = ["good movie " * (1 + number % 9) for number in range(64)]
    wanted = predictor.backbone.tokenize(texts)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: predictor.read([text])[0][0], texts * 4))
    assert found == wanted * 4


@pytest.mark.parametrize("at_once", [2**22, 5000])
def test_readouts_are_computed_together_as_each_alone(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipt.readout.readout.WEIGHTS_AT_ONCE", at_once)
    rng = torch.Generator().manual_seed(0)
    for classes, rows in ((2, 3), (7, 40), (200, 9)):
        readouts = [
            Readout(
                torch.randint(-127, 128, (classes, 64), generator=rng).to(torch.int8),
                torch.rand(classes, generator=rng),
                torch.rand(classes, generator=rng),
            )
            for _ in range(rows)
        ]
        embeddings = Embeddings(torch.randn(rows, 32, generator=rng), torch.randn(rows, 32, generator=rng))
        alone = [readout.logits(embeddings.rows(slice(i, i + 1))) for i, readout in enumerate(readouts)]
        torch.testing.assert_close(StackedReadouts(readouts).logits(embeddings), torch.cat(alone), rtol=1e-4, atol=1e-3)
