"""Measuring a subspace against plain prompt tuning and against what needs no tuning."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.evaluation import Evaluation, EvaluationOptions, Measurement, e_rel, random_subspace
from ipt.evaluation_report import MeasurementFile, render
from ipt.subspace.modules import SubspaceDecoder
from ipt.task_folder import FolderTask
from tests.ipt.conftest import sentiment
from tests.tiny import build_tiny_seq2seq

OPTIONS = EvaluationOptions(
    per_label=8,
    hyperparameters=ipt.Hyperparameters(steps=3, batch_size=8),
    pt_steps=4,
    pt_learning_rates=(0.01, 0.1),
)


def task(kind: str = "classification") -> FolderTask:
    rows = tuple(sentiment(3))
    if kind == "text2text":
        rows = tuple(ipt.Example(row.input, f"{row.output} {number}") for number, row in enumerate(rows))
    return FolderTask("sentiment", "opinion", rows[:20], rows[20:])


def test_every_method_is_measured_on_the_same_test_rows(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    measured = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), seed=3))
    assert [each.method for each in measured] == list(OPTIONS.methods)
    assert all((each.task, each.family, each.seed) == ("sentiment", "opinion", 3) for each in measured)
    assert all(0.0 <= each.score <= 1.0 for each in measured)
    again = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), seed=3))
    assert [each.score for each in again] == [each.score for each in measured]


def test_ist_is_what_adapting_and_predicting_gives(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    everything = replace(OPTIONS, per_label=100, methods=("IST",))
    [measured] = Evaluation(encoder, subspace, everything).measure(task(), seed=1)
    adapted = ipt.adapt(
        encoder, subspace, task().train, hyperparameters=ipt.Hyperparameters(steps=3, batch_size=8, seed=1)
    )
    answers = ipt.Predictor(encoder, subspace).predict([(ipt.head_of(adapted), row.input) for row in task().test])
    right = [answer.label == row.output for answer, row in zip(answers, task().test, strict=True)]
    assert measured.score == sum(right) / len(right)


def test_nearest_neighbours_are_those_of_a_plain_search(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    def embedding(text: str) -> torch.Tensor:
        with torch.no_grad():
            return encoder.embed(encoder.tokenize([text]), None)[0]

    options = replace(OPTIONS, per_label=100, methods=("nearest neighbours",))
    [measured] = Evaluation(encoder, subspace, options).measure(task(), seed=0)
    train = [(embedding(row.input), row.output) for row in task().train]
    right = 0
    for row in task().test:
        own = embedding(row.input)
        nearest = sorted(train, key=lambda each: -float(each[0] @ own))[:5]
        right += Counter(label for _, label in nearest).most_common(1)[0][0] == row.output
    assert measured.score == right / len(task().test)


@pytest.mark.parametrize("kind", ["classification", "text2text"])
def test_a_text_backbone_has_no_embeddings_to_compare(tmp_path: Path, kind: str) -> None:
    backbone = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    subspace = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), backbone)
    measured = list(Evaluation(backbone, subspace, OPTIONS).measure(task(kind), seed=0))
    assert [each.method for each in measured] == ["random", "PT", "IST", "IST then PT"]


def test_a_task_of_texts_is_tuned_on_twice_as_many_rows_as_one_of_labels_has_of_a_label(tmp_path: Path) -> None:
    backbone = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    subspace = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), backbone)
    rows = tuple(ipt.Example(f"good {number}", f"bad {number}") for number in range(60))
    [measured] = Evaluation(backbone, subspace, OPTIONS).measure(FolderTask("t", "t", rows, rows[:1]), 0, ("IST",))
    assert measured.detail["held_back"] == 4  # a quarter of 2 x 8


def test_plain_prompt_tuning_takes_larger_steps_on_a_backbone_that_writes(
    tmp_path: Path, encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    text = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    of_text = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), text)
    options = replace(OPTIONS, pt_learning_rates=None)
    assert Evaluation(encoder, subspace, options).identity["pt_learning_rates"] == [0.001, 0.003, 0.01]
    assert Evaluation(text, of_text, options).identity["pt_learning_rates"] == [0.01, 0.03, 0.1]
    assert Evaluation(text, of_text, OPTIONS).identity["pt_learning_rates"] == [0.01, 0.1]


def test_an_unknown_method_is_named(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    with pytest.raises(ValueError, match="'magic'"):
        list(Evaluation(encoder, subspace, replace(OPTIONS, methods=("magic",))).measure(task(), seed=0))


def test_e_rel_is_the_ratio_of_means_over_common_draws() -> None:
    def of(name: str, method: str, seed: int, score: float) -> Measurement:
        return Measurement(name, "f", seed, method, score, 1.0, {})

    measured = [
        *(of("a", "IST", 0, 0.6), of("a", "IST", 1, 0.8), of("a", "IST", 2, 0.1)),
        *(of("a", "PT", 0, 0.5), of("a", "PT", 1, 0.5)),
        *(of("b", "IST", 0, 0.5), of("b", "PT", 0, 0.0), of("c", "IST", 0, 0.5)),
    ]
    assert e_rel(measured) == {"a": pytest.approx(1.4)}


def test_a_random_subspace_has_the_shape_of_the_other_and_starts_like_words(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    drawn = random_subspace(encoder, subspace, seed=0)
    assert (drawn.intrinsic_dim, drawn.prompt_length) == (subspace.intrinsic_dim, subspace.prompt_length)
    assert drawn.id != subspace.id
    words = encoder.model.get_input_embeddings().weight  # type: ignore[operator]
    start = drawn.decoder(torch.zeros(1, 8))[0]
    moved = drawn.decoder(torch.eye(8)) - start
    assert 0.5 < float(moved.std()) / float(start.std()) < 2.0
    assert 0.3 < float(start.std()) / float(words.std()) < 3.0
    assert torch.equal(
        drawn.decoder(torch.ones(1, 8)), random_subspace(encoder, subspace, seed=0).decoder(torch.ones(1, 8))
    )
    assert not torch.equal(start, random_subspace(encoder, subspace, seed=1).decoder(torch.zeros(1, 8))[0])


def test_measurements_are_kept_at_once_and_a_torn_line_is_measured_again(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path
) -> None:
    evaluation = Evaluation(encoder, subspace, OPTIONS)
    path = tmp_path / "new" / "measured.jsonl"
    kept = MeasurementFile(path, evaluation.identity)
    for measured in evaluation.measure(task(), 0, ("class names", "IST")):
        kept.add(measured)
    path.write_bytes(path.read_bytes()[:-20])
    again = MeasurementFile(path, evaluation.identity)
    assert [again.has("sentiment", 0, method) for method in ("class names", "IST")] == [True, False]
    for measured in evaluation.measure(task(), 0, ("IST",)):
        again.add(measured)
    read = MeasurementFile(path, evaluation.identity).measurements
    assert [(each.method, each.score) for each in read] == [(each.method, each.score) for each in kept.measurements]
    other = Evaluation(encoder, subspace, replace(OPTIONS, pt_steps=5))
    assert MeasurementFile(path, other.identity).measurements == []


def test_a_report_has_means_spreads_and_e_rel() -> None:
    def of(name: str, method: str, seed: int, score: float) -> Measurement:
        return Measurement(name, "f", seed, method, score, 1.0, {})

    measured = [
        *(of("a", "IST", 0, 0.6), of("a", "IST", 1, 0.8), of("a", "PT", 0, 0.5), of("a", "PT", 1, 0.5)),
        *(of("b", "IST", 0, 0.3), of("b", "PT", 0, 0.6), of("a", "class names", 0, 0.25)),
    ]
    lines = render(measured, ("class names", "PT", "IST", "random"), "About.").splitlines()
    assert "| task | class names | PT | IST | sd of IST | sd of PT | E_rel |" in lines
    assert "| a | 25.0 | 50.0 | 70.0 | 14.1 | 0.0 | 1.400 |" in lines
    assert "| b | – | 60.0 | 30.0 | 0.0 | 0.0 | 0.500 |" in lines
    assert "| **mean** | 25.0 | 55.0 | 50.0 | 7.1 | 0.0 | 0.950 |" in lines
