"""The file of measurements: resuming, and which lines count."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.evaluation import Evaluation, measure_missing
from ipt.evaluation.measurement_file import IdentityOf, MeasurementFile
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.methods import METHODS
from ipt.evaluation.protocol import EvaluationOptions
from tests.support.datasets import sentiment

OPTIONS = EvaluationOptions(
    per_label=8,
    hyperparameters=ipt.Hyperparameters(steps=3, batch_size=8),
    pt_steps=4,
    pt_learning_rates=(0.01, 0.1),
)


def task() -> TaskDataset:
    rows = tuple(sentiment(3))
    return TaskDataset("sentiment", "opinion", rows[:20], rows[20:])


def test_measurements_are_written_at_once_and_a_torn_line_is_measured_again(
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


def test_a_task_with_other_rows_is_measured_again(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path
) -> None:
    evaluation = Evaluation(encoder, subspace, OPTIONS)
    flipped = {"positive": "negative", "negative": "positive"}
    changed = replace(task(), test=tuple(ipt.Example(row.input, flipped[row.output]) for row in task().test))

    def scores(of: TaskDataset) -> list[float]:
        kept = MeasurementFile(tmp_path / "measured.jsonl", evaluation.identity)
        methods = ("logistic regression",)
        return [each.score for each in measure_missing(evaluation, kept, [of], [0], methods, lambda *_: None)]

    [before] = scores(task())
    assert scores(changed) == [1 - before]
    assert (scores(task()), scores(changed)) == ([before], [1 - before])
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert len(lines) == 2
    # An old measurement without a hash of its rows counts for any rows.
    (tmp_path / "measured.jsonl").write_text(json.dumps({**json.loads(lines[0]), "rows": None}))
    assert scores(changed) == [before]


def test_a_file_that_has_no_measurements_is_rejected(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path
) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"split": "train", "input": "good", "output": "positive"}\n')
    with pytest.raises(ipt.CheckpointError, match=r"task.jsonl:1: not a measurement"):
        MeasurementFile(path, Evaluation(encoder, subspace, OPTIONS).identity)


def test_methods_that_use_no_subspace_are_measured_once_for_all_subspaces(tmp_path: Path) -> None:
    def run(subspace: str, per_label: int = 16) -> IdentityOf:
        return lambda _method: {"subspace": subspace, "per_label": per_label}

    first = MeasurementFile(tmp_path / "measured.jsonl", run("one"))
    for method in METHODS:
        first.add(Measurement("a", "f", 0, method, 0.5, 1.0, {}))
    second = MeasurementFile(first.path, run("two"), ["one", "two"])
    assert [method for method in METHODS if not second.has("a", 0, method)] == ["random", "IST", "IST then PT"]
    assert MeasurementFile(first.path, run("two"), ["two"]).measurements == []
    assert MeasurementFile(first.path, run("two", per_label=4), ["one", "two"]).measurements == []
