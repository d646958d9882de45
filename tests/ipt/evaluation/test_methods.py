"""The evaluation methods."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.evaluation import Evaluation
from ipt.evaluation.methods import METHODS, READOUTS, STARTS
from ipt.evaluation.protocol import EvaluationOptions
from ipt.evaluation.setfit import save_sentence_transformer
from ipt.readout.embeddings import Embeddings
from ipt.readout.readout import fit_readout
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.tuning.tuning_loop import TuningLoop
from tests.support.datasets import sentiment
from tests.support.tiny import build_tiny_seq2seq
from tests.support.tuned import always_keep_the_start, never_keep_the_start

WITHOUT_SETFIT = tuple(method for method in METHODS if method != "SetFit")
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
    measured = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 3, WITHOUT_SETFIT))
    assert [each.method for each in measured] == list(WITHOUT_SETFIT)
    assert all((each.task, each.family, each.seed) == ("sentiment", "opinion", 3) for each in measured)
    assert all(0.0 <= each.score <= 1.0 for each in measured)
    again = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 3, WITHOUT_SETFIT))
    assert [each.score for each in again] == [each.score for each in measured]


def test_ist_scores_like_adapting_and_predicting(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    everything = replace(OPTIONS, per_label=100)
    [measured] = Evaluation(encoder, subspace, everything).measure(task(), 1, ["IST"])
    adapted = ipt.adapt(
        encoder, subspace, task().train, hyperparameters=ipt.Hyperparameters(steps=3, batch_size=8, seed=1)
    )
    answers = ipt.Predictor(encoder, subspace).predict([(adapted.head, row.input) for row in task().test])
    right = [answer.label == row.output for answer, row in zip(answers, task().test, strict=True)]
    assert measured.score == sum(right) / len(right)


def test_nearest_neighbours_equal_a_plain_search(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    def embedding(text: str) -> torch.Tensor:
        with torch.no_grad():
            return encoder.embed(encoder.tokenize([text]), None)[0]

    options = replace(OPTIONS, per_label=100)
    [measured] = Evaluation(encoder, subspace, options).measure(task(), 0, ["nearest neighbours"])
    train = [(embedding(row.input), row.output) for row in task().train]
    right = 0
    for row in task().test:
        embedded = embedding(row.input)
        nearest = sorted(train, key=lambda each: -float(each[0] @ embedded))[:5]
        right += Counter(label for _, label in nearest).most_common(1)[0][0] == row.output
    assert measured.score == right / len(task().test)


@pytest.mark.parametrize("kind", ["classification", "text2text"])
def test_a_text_backbone_supports_only_methods_that_tune(tmp_path: Path, kind: str) -> None:
    backbone = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    subspace = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), backbone)
    measured = list(Evaluation(backbone, subspace, OPTIONS).measure(task(kind), 0, list(METHODS)))
    assert [each.method for each in measured] == ["PT", "random", "IST", "IST then PT"]


def test_a_text_task_is_tuned_on_twice_per_label_rows(tmp_path: Path) -> None:
    backbone = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    subspace = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), backbone)
    rows = tuple(ipt.Example(f"good {number}", f"bad {number}") for number in range(60))
    [measured] = Evaluation(backbone, subspace, OPTIONS).measure(TaskDataset("t", "t", rows, rows[:1]), 0, ("IST",))
    assert measured.detail["held_back"] == 4  # a quarter of 2 x 8


def test_prompt_tuning_has_larger_learning_rates_on_a_text_backbone(
    tmp_path: Path, encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    text = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    of_text = ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(6, 12, 3, 32), text)
    options = replace(OPTIONS, pt_learning_rates=None)
    assert Evaluation(encoder, subspace, options).identity("PT")["pt_learning_rates"] == [0.001, 0.003, 0.01]
    assert Evaluation(text, of_text, options).identity("PT")["pt_learning_rates"] == [0.01, 0.03, 0.1]
    assert Evaluation(text, of_text, OPTIONS).identity("PT")["pt_learning_rates"] == [0.01, 0.1]


def test_whole_prompts_are_tuned_to_the_last_step_and_report_whether_they_moved(
    encoder: EncoderBackbone, subspace: ipt.Subspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, pt_steps=30, hyperparameters=ipt.Hyperparameters(steps=30, batch_size=8))

    def measured() -> dict[str, tuple[object, ...]]:
        measurements = Evaluation(encoder, subspace, options).measure(task(), 0, ("PT", "IST", "IST then PT"))
        return {each.method: (each.detail["steps_run"], each.detail.get("moved")) for each in measurements}

    monkeypatch.setattr(TuningLoop, "record_validation", always_keep_the_start)
    assert measured() == {"PT": (30, False), "IST": (20, None), "IST then PT": (30, False)}
    monkeypatch.setattr(TuningLoop, "record_validation", never_keep_the_start)
    moved = measured()
    assert (moved["PT"], moved["IST then PT"]) == ((30, True), (30, True))


def test_an_unknown_method_is_rejected(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    with pytest.raises(ValueError, match="'magic'"):
        list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, ["magic"]))


def test_draws_measured_together_score_like_draws_measured_one_by_one(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    evaluation = Evaluation(encoder, subspace, OPTIONS)
    methods = ("logistic regression", "PT", "random", "IST", "IST then PT")
    tasks = [task(), replace(task(), name="fewer", train=task().train[4:])]
    pairs = [(each, seed) for seed in (0, 1) for each in tasks]
    together = {(each.method, each.task, each.seed): each.score for each in evaluation.measure_together(pairs, methods)}
    one_by_one = {
        (each.method, each.task, each.seed): each.score for pair in pairs for each in evaluation.measure(*pair, methods)
    }
    assert together == one_by_one


def test_with_one_example_per_label_ist_is_the_untuned_readout(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    two = TaskDataset("two", "opinion", tuple(sentiment(1)[4:6]), tuple(sentiment(2)))
    [measured] = Evaluation(encoder, subspace, replace(OPTIONS, per_label=1)).measure(two, 0, ["IST"])
    # The prompt of the zero vector, with a readout fitted on the same two examples and the names of their labels.
    ids = encoder.tokenize(["positive", "negative", *(row.input for row in (*two.train, *two.test))])
    prompt = subspace.decoder(torch.zeros(1, 8)).expand(len(ids), -1, -1)
    embedded = Embeddings(encoder.embed(ids, prompt), encoder.embed(ids))
    names, examples, test = (embedded.rows(part) for part in (slice(2), slice(2, 4), slice(4, None)))
    readout = fit_readout(examples, torch.tensor([0, 1]), 2, 1 / (1 + torch.e), names)
    answers = readout.logits(test).argmax(dim=1).tolist()
    right = [("positive", "negative")[answer] == row.output for answer, row in zip(answers, two.test, strict=True)]
    assert 0.0 < measured.score == sum(right) / len(right) < 1.0
    assert measured.detail == {}
    methods = ["logistic regression", *READOUTS]
    compared = list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, methods))
    assert [each.method for each in compared] == methods
    assert len({each.score for each in compared}) > 1


def test_other_starts_need_the_subspaces_task_vectors(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    with pytest.raises(ipt.SubspaceError, match="was saved without task vectors"):
        list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, ["IST from the nearest task"]))
    vectors = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    untuned = replace(OPTIONS, hyperparameters=ipt.Hyperparameters(steps=0))
    evaluation = Evaluation(encoder, replace(subspace, task_vectors=vectors), untuned)
    measured = {each.method: each for each in evaluation.measure(task(), 0, list(STARTS))}
    assert list(measured) == list(STARTS)
    zero = measured["IST from zero"].detail
    assert zero["score"] == zero["start_score"]
    assert len({each.detail["prompt_weight"] for each in measured.values()}) > 1


def test_setfit_trains_a_copy_of_the_backbone_with_equal_embeddings(
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


def test_missing_setfit_is_an_error_that_names_the_install_command(
    encoder: EncoderBackbone, subspace: ipt.Subspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ipt.IptError, match="pip install"):
        list(Evaluation(encoder, subspace, OPTIONS).measure(task(), 0, ["SetFit"]))
