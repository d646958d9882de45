"""Measuring a subspace against plain prompt tuning and against what needs no tuning."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.evaluation import Evaluation, measure_missing
from ipt.evaluation.measurement_file import IdentityOf, MeasurementFile
from ipt.evaluation.measurements import Measurement, e_rel
from ipt.evaluation.methods import METHODS, READOUTS, STARTS
from ipt.evaluation.protocol import EvaluationOptions
from ipt.evaluation.random_subspace import random_subspace
from ipt.evaluation.report import render
from ipt.evaluation.setfit import save_sentence_transformer
from ipt.readout.embeddings import Embeddings
from ipt.readout.readout import fit_readout
from ipt.subspace.modules import SubspaceDecoder
from tests.support.datasets import sentiment
from tests.support.tiny import build_tiny_seq2seq

OWN_METHODS = tuple(method for method in METHODS if method != "SetFit")
OPTIONS = EvaluationOptions(
    per_label=8,
    hyperparameters=ipt.Hyperparameters(steps=3, batch_size=8),
    pt_steps=4,
    pt_learning_rates=(0.01, 0.1),
)


def task(kind: str = "classification") -> TaskDataset:
    rows = tuple(sentiment(3))
    if kind == "text2text":
        rows = tuple(ipt.Example(row.input, f"{row.output} {number}") for number, row in enumerate(rows))
    return TaskDataset("sentiment", "opinion", rows[:20], rows[20:])


def test_every_method_is_measured_on_the_same_test_rows(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    measured = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 3, OWN_METHODS))
    assert [each.method for each in measured] == list(OWN_METHODS)
    assert all((each.task, each.family, each.seed) == ("sentiment", "opinion", 3) for each in measured)
    assert all(0.0 <= each.score <= 1.0 for each in measured)
    again = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 3, OWN_METHODS))
    assert [each.score for each in again] == [each.score for each in measured]


def test_ist_is_what_adapting_and_predicting_gives(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    everything = replace(OPTIONS, per_label=100)
    [measured] = Evaluation(encoder, subspace, everything).measure(task(), 1, ["IST"])
    adapted = ipt.adapt(
        encoder, subspace, task().train, hyperparameters=ipt.Hyperparameters(steps=3, batch_size=8, seed=1)
    )
    answers = ipt.Predictor(encoder, subspace).predict([(adapted.head, row.input) for row in task().test])
    right = [answer.label == row.output for answer, row in zip(answers, task().test, strict=True)]
    assert measured.score == sum(right) / len(right)


def test_nearest_neighbours_are_those_of_a_plain_search(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    def embedding(text: str) -> torch.Tensor:
        with torch.no_grad():
            return encoder.embed(encoder.tokenize([text]), None)[0]

    options = replace(OPTIONS, per_label=100)
    [measured] = Evaluation(encoder, subspace, options).measure(task(), 0, ["nearest neighbours"])
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
    measured = list(Evaluation(backbone, subspace, OPTIONS).measure(task(kind), 0, list(METHODS)))
    assert [each.method for each in measured] == ["PT", "random", "IST", "IST then PT"]


def test_a_task_of_texts_is_tuned_on_twice_as_many_rows_as_one_of_labels_has_of_a_label(tmp_path: Path) -> None:
    backbone = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    subspace = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), backbone)
    rows = tuple(ipt.Example(f"good {number}", f"bad {number}") for number in range(60))
    [measured] = Evaluation(backbone, subspace, OPTIONS).measure(TaskDataset("t", "t", rows, rows[:1]), 0, ("IST",))
    assert measured.detail["held_back"] == 4  # a quarter of 2 x 8


def test_plain_prompt_tuning_takes_larger_steps_on_a_backbone_that_writes(
    tmp_path: Path, encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    text = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    of_text = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), text)
    options = replace(OPTIONS, pt_learning_rates=None)
    assert Evaluation(encoder, subspace, options).identity("PT")["pt_learning_rates"] == [0.001, 0.003, 0.01]
    assert Evaluation(text, of_text, options).identity("PT")["pt_learning_rates"] == [0.01, 0.03, 0.1]
    assert Evaluation(text, of_text, OPTIONS).identity("PT")["pt_learning_rates"] == [0.01, 0.1]


def test_whole_prompts_are_tuned_to_the_last_step_and_tell_whether_they_kept_their_start(
    encoder: EncoderBackbone, subspace: ipt.Subspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, pt_steps=8, hyperparameters=ipt.Hyperparameters(steps=8, batch_size=8))

    def measured(keep_nats: float) -> dict[str, tuple[object, ...]]:
        monkeypatch.setattr("ipt.tuning.program.KEEP_NATS", keep_nats)
        found = Evaluation(encoder, subspace, options).measure(task(), 0, ("PT", "IST", "IST then PT"))
        return {one.method: (one.detail["steps_run"], one.detail.get("moved")) for one in found}

    # Where nothing is better than the start, tuning in the subspace ends at its first validation.
    assert measured(1e9) == {"PT": (8, False), "IST": (2, None), "IST then PT": (8, False)}
    moved = measured(-1e9)
    assert (moved["PT"], moved["IST then PT"]) == ((8, True), (8, True))


def test_an_unknown_method_is_named(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    with pytest.raises(ValueError, match="'magic'"):
        list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, ["magic"]))


def test_what_is_measured_together_is_what_is_measured_alone(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    evaluation = Evaluation(encoder, subspace, OPTIONS)
    methods = ("logistic regression", "PT", "random", "IST", "IST then PT")
    tasks = [task(), replace(task(), name="fewer", train=task().train[4:])]
    pairs = [(one, seed) for seed in (0, 1) for one in tasks]
    together = {(one.method, one.task, one.seed): one.score for one in evaluation.measure_together(pairs, methods)}
    alone = {
        (one.method, one.task, one.seed): one.score for pair in pairs for one in evaluation.measure(*pair, methods)
    }
    assert together == alone


def test_with_one_example_of_each_label_the_first_start_answers(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    two = TaskDataset("two", "opinion", tuple(sentiment(1)[4:6]), tuple(sentiment(2)))
    [measured] = Evaluation(encoder, subspace, replace(OPTIONS, per_label=1)).measure(two, 0, ["IST"])
    # The zero vector untuned, its readout fitted on the same two examples and the names of their labels.
    ids = encoder.tokenize(["positive", "negative", *(row.input for row in (*two.train, *two.test))])
    prompt = subspace.decoder(torch.zeros(1, 8)).expand(len(ids), -1, -1)
    embedded = Embeddings(encoder.embed(ids, prompt), encoder.embed(ids))
    names, known, asked = (embedded.rows(part) for part in (slice(2), slice(2, 4), slice(4, None)))
    readout = fit_readout(known, torch.tensor([0, 1]), 2, 1 / (1 + torch.e), names)
    answers = readout.logits(asked).argmax(dim=1).tolist()
    right = [("positive", "negative")[answer] == row.output for answer, row in zip(answers, two.test, strict=True)]
    assert 0.0 < measured.score == sum(right) / len(right) < 1.0
    assert measured.detail == {}
    methods = ["logistic regression", *READOUTS]
    compared = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, methods))
    assert [each.method for each in compared] == methods
    assert len({each.score for each in compared}) > 1


def test_starts_are_compared_where_the_subspace_has_its_tasks_vectors(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    with pytest.raises(ipt.SubspaceError, match="was saved without task vectors"):
        list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, ["IST from the nearest task"]))
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    untuned = replace(OPTIONS, hyperparameters=ipt.Hyperparameters(steps=0))
    evaluation = Evaluation(encoder, replace(subspace, task_vectors=vectors), untuned)
    measured = {each.method: each for each in evaluation.measure(task(), 0, list(STARTS))}
    assert list(measured) == list(STARTS)
    zero = measured["IST from zero"].detail
    assert zero["score"] == zero["zero_vector_score"]
    weights = [each.detail["prompt_weight"] for each in measured.values()]
    assert len(set(weights)) > 1
    assert weights[1] >= weights[0]  # the likeliest of more starts, zero among them


def test_setfit_trains_a_copy_of_the_backbone_that_embeds_as_it_does(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("setfit")
    texts = [row.input for row in sentiment(6)]
    copied = save_sentence_transformer(encoder, tmp_path).encode(texts, show_progress_bar=False, convert_to_tensor=True)
    torch.testing.assert_close(copied, encoder.embed(encoder.tokenize(texts)))
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    capfd.readouterr()
    evaluation = Evaluation(encoder, subspace, OPTIONS)
    [measured], [again] = ([*evaluation.measure(task(), 2, ["SetFit"])] for _ in range(2))
    assert 0.0 < measured.score == again.score
    assert 0.0 < float(measured.detail["seconds"] or 0) < measured.seconds
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(before[name], value) for name, value in encoder.model.state_dict().items())


def test_setfit_that_is_not_installed_is_one_line(
    encoder: EncoderBackbone, subspace: ipt.Subspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ipt.IptError, match="pip install"):
        list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, ["SetFit"]))


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


def test_a_task_with_other_rows_is_measured_anew(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path
) -> None:
    evaluation = Evaluation(encoder, subspace, OPTIONS)
    flipped = {"positive": "negative", "negative": "positive"}
    mended = replace(task(), test=tuple(ipt.Example(row.input, flipped[row.output]) for row in task().test))

    def scores(of: TaskDataset) -> list[float]:
        kept = MeasurementFile(tmp_path / "measured.jsonl", evaluation.identity)
        methods = ("logistic regression",)
        return [one.score for one in measure_missing(evaluation, kept, [of], [0], methods, lambda *_: None)]

    [before] = scores(task())
    assert scores(mended) == [1 - before]
    assert (scores(task()), scores(mended)) == ([before], [1 - before])
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert len(lines) == 2
    # What was measured before rows were noted counts for whatever rows there are.
    (tmp_path / "measured.jsonl").write_text(json.dumps({**json.loads(lines[0]), "rows": None}))
    assert scores(mended) == [before]


def test_a_file_of_something_else_is_not_added_to(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path
) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"split": "train", "input": "good", "output": "positive"}\n')
    with pytest.raises(ipt.CheckpointError, match=r"task.jsonl:1: not a measurement"):
        MeasurementFile(path, Evaluation(encoder, subspace, OPTIONS).identity)


def test_what_does_not_depend_on_the_subspace_is_not_measured_for_each(tmp_path: Path) -> None:
    def run(subspace: str, per_label: int = 16) -> IdentityOf:
        return lambda _method: {"subspace": subspace, "per_label": per_label}

    first = MeasurementFile(tmp_path / "measured.jsonl", run("one"))
    for method in METHODS:
        first.add(Measurement("a", "f", 0, method, 0.5, 1.0, {}))
    second = MeasurementFile(first.path, run("two"), ["one", "two"])
    assert [method for method in METHODS if not second.has("a", 0, method)] == ["random", "IST", "IST then PT"]
    assert MeasurementFile(first.path, run("two"), ["two"]).measurements == []
    assert MeasurementFile(first.path, run("two", per_label=4), ["one", "two"]).measurements == []


def test_a_report_has_means_spreads_and_e_rel() -> None:
    def of(name: str, method: str, seed: int, score: float) -> Measurement:
        return Measurement(name, "f", seed, method, score, 1.0, {})

    measured = [
        *(of("a", "IST", 0, 0.6), of("a", "IST", 1, 0.8), of("a", "PT", 0, 0.5), of("a", "PT", 1, 0.5)),
        *(of("b", "IST", 0, 0.3), of("b", "PT", 0, 0.6), of("a", "class names", 0, 0.25)),
    ]
    lines = render(measured, ("class names", "PT", "IST", "random"), "About.").splitlines()
    assert "| task | class names | PT | IST | E_rel |" in lines
    assert "| a | 25.0 | 50.0 ± 0.0 | 70.0 ± 14.1 | 1.400 |" in lines
    assert "| b | – | 60.0 | 30.0 | 0.500 |" in lines
    assert "| **mean** | 25.0 | 55.0 ± 0.0 | 50.0 ± 14.1 | 0.950 |" in lines
