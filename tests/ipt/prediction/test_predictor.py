"""Prediction for rows of many tasks: each row depends on its own task only."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.readout.embeddings import Embeddings
from ipt.readout.readout import Readout, StackedReadouts
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.datasets import sentiment, topics
from tests.support.tiny_chat import build_tiny_chat, save_chat_subspace


@pytest.fixture(scope="module")
def heads(encoder: EncoderBackbone, subspace: ipt.Subspace) -> list[ipt.TaskHead]:
    hyperparameters = ipt.Hyperparameters(steps=6, batch_size=8, learning_rate=0.1)
    return [
        ipt.adapt(encoder, subspace, examples, hyperparameters=hyperparameters).head
        for examples in (sentiment(), topics())
    ]


@pytest.fixture
def predictor(encoder: EncoderBackbone, subspace: ipt.Subspace) -> ipt.Predictor:
    return ipt.Predictor(encoder, subspace)


def test_rows_of_many_tasks_are_predicted_like_each_alone(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    texts = ["good movie", "refund the invoice please , it was charged twice", "bad", "hello , love this app , thanks"]
    rows = [(heads[turn % 2], text) for turn, text in enumerate(texts * 2)]
    together = predictor.predict(rows)
    for (head, text), prediction in zip(rows, together, strict=True):
        (alone,) = predictor.predict([(head, text)])
        assert alone.label == prediction.label
        assert alone.scores is not None
        assert prediction.scores is not None
        assert list(prediction.scores) == list(head.labels)
        np.testing.assert_allclose(list(prediction.scores.values()), list(alone.scores.values()), atol=1e-5)
        assert sum(prediction.scores.values()) == pytest.approx(1.0, abs=1e-5)
        assert prediction.label == max(prediction.scores, key=prediction.scores.__getitem__)


def test_the_prediction_depends_on_the_vector(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    moved = replace(heads[0], vector=heads[0].vector + np.float32(3.0))
    original, other = predictor.predict([(heads[0], "good movie"), (moved, "good movie")])
    assert original.scores != other.scores


def test_no_rows_give_no_predictions(predictor: ipt.Predictor) -> None:
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [(3, "must be a string, got int"), ("a\x00b", "NUL"), ("a\ud800", "lone surrogate"), (None, "must be a string")],
)
def test_an_invalid_text_is_rejected_with_its_row(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], text: str, message: str
) -> None:
    with pytest.raises(ipt.IptError, match=message) as raised:
        predictor.predict([(heads[0], "good"), (heads[0], text)])
    assert raised.value.param == "rows[1]"


@pytest.mark.parametrize("row", ["good", ("good", "movie"), ("good",), 3])
def test_a_row_that_is_not_a_task_and_a_text_is_rejected(predictor: ipt.Predictor, row: Any) -> None:
    with pytest.raises(ipt.IptError, match=r"rows\[0\] must be a pair"):
        predictor.predict([row])


def test_a_vector_of_another_subspace_is_rejected(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    other = replace(heads[0], subspace_id="sub_other")
    with pytest.raises(ipt.SubspaceMismatchError, match="sub_other"):
        predictor.predict([(heads[0], "good"), (other, "good")])


@pytest.mark.parametrize(
    "vector", [np.zeros(7, np.float32), np.full(8, np.nan, np.float32), np.zeros((1, 8), np.float32)]
)
def test_a_damaged_vector_is_rejected(predictor: ipt.Predictor, heads: list[ipt.TaskHead], vector: np.ndarray) -> None:
    with pytest.raises(ipt.CheckpointError, match="8 finite floats"):
        predictor.predict([(replace(heads[0], vector=vector), "good")])


def test_a_readout_for_other_labels_is_rejected(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    with pytest.raises(ipt.CheckpointError):
        predictor.bind(replace(heads[0], labels=("a", "b", "c")))
    with pytest.raises(ipt.CheckpointError, match="readout"):
        predictor.bind(replace(heads[0], readout=None))


def test_out_of_memory_halves_the_batch_which_grows_back_later(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(heads[number % 2], f"good movie {number}") for number in range(16)]
    expected = predictor.predict(rows)
    initial_limit = predictor.max_positions
    passes: list[int] = []
    max_rows = 5
    embed_both = EncoderBackbone.embed_both

    def embed(self: EncoderBackbone, token_ids: Any, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        passes.append(len(token_ids))
        if len(token_ids) > max_rows:
            torch.empty(10**15)  # raises the allocator's own error
        return embed_both(self, token_ids, prompts)

    monkeypatch.setattr(EncoderBackbone, "embed_both", embed)
    predictions = predictor.predict(rows)
    assert [prediction.label for prediction in predictions] == [prediction.label for prediction in expected]
    assert passes[0] == 16
    assert max(passes[-3:]) <= max_rows
    passes.clear()
    predictor.predict(rows)
    assert max(passes) <= max_rows  # a batch that did not fit is not tried again at once
    max_rows = 16
    for _ in range(160):
        predictor.predict(rows)
    assert passes[-1] == 16
    assert predictor.max_positions <= initial_limit


def test_a_row_that_does_not_fit_by_itself_is_an_error_and_the_next_call_succeeds(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(EncoderBackbone, "embed_both", lambda *_: torch.empty(10**15))
        with pytest.raises(RuntimeError):
            predictor.predict([(heads[0], "good"), (heads[0], "bad")])
    assert predictor.predict([(heads[0], "good")])[0].label is not None


def test_a_text_may_be_its_token_ids(predictor: ipt.Predictor, heads: list[ipt.TaskHead]) -> None:
    text = "refund the invoice please"
    [(ids, _)] = predictor.read([text])
    assert predictor.predict([(heads[0], text), (heads[0], ids)])[1].scores == pytest.approx(
        predictor.predict([(heads[0], text)])[0].scores, abs=1e-5
    )


def test_a_truncated_text_is_reported_and_one_that_just_fits_is_not(predictor: ipt.Predictor) -> None:
    limit = predictor.backbone.max_input_tokens(predictor.subspace.prompt_length)
    fits, too_long = (" ".join(["good"] * (limit - 2 + extra)) for extra in (0, 1))
    (whole, first), (truncated, second), (short, third) = predictor.read([fits, too_long, "good"])
    assert (len(whole), len(short)) == (limit, 3)
    assert (first, second, third) == (False, True, False)
    assert [whole, truncated, short] == predictor.backbone.tokenize([fits, too_long, "good"])


def test_many_threads_tokenize_at_once(predictor: ipt.Predictor) -> None:
    texts = ["good movie " * (1 + number % 9) for number in range(64)]
    expected = predictor.backbone.tokenize(texts)
    with ThreadPoolExecutor(8) as threads:
        token_ids = list(threads.map(lambda text: predictor.read([text])[0][0], texts * 4))
    assert token_ids == expected * 4


@pytest.mark.parametrize("at_once", [2**22, 5000])
def test_stacked_readouts_equal_each_alone(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_embeddings_are_those_of_the_backbone_with_and_without_the_prompt(
    predictor: ipt.Predictor, heads: list[ipt.TaskHead], encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    texts = ["good movie", "refund the invoice please", "bad"]
    vectors = torch.tensor(np.stack([heads[number % 2].vector for number in range(3)]))
    expected = encoder.embed(encoder.tokenize(texts), subspace.decoder(vectors)).detach().numpy()
    rows = [(heads[number % 2], text) for number, text in enumerate(texts)]
    assert np.array(predictor.embed(rows)) == pytest.approx(expected, abs=1e-5)
    frozen = encoder.embed(encoder.tokenize(texts)).detach().numpy()
    assert np.array(predictor.embed_frozen(texts)) == pytest.approx(frozen, abs=1e-5)


def test_a_subspace_with_another_template_is_not_answered_in_the_same_process(tmp_path: Path) -> None:
    backbone = ipt.load_backbone(str(build_tiny_chat(tmp_path / "model")), device="cpu")
    chat = save_chat_subspace(tmp_path / "chat", backbone)
    decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    plain = ipt.save_subspace(tmp_path / "plain", decoder, backbone)
    predictor = ipt.Predictor(backbone, chat, library=SubspaceLibrary([tmp_path / "plain"]))
    head = ipt.TaskHead(np.zeros(8, np.float32), plain.id, "text2text", (), None)
    with pytest.raises(ipt.SubspaceMismatchError, match="puts other text around inputs"):
        predictor.bind(head)
