"""What a study fits and measures, and how it resumes."""

import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.methods import METHODS, STARTS
from ipt.evaluation.protocol import EvaluationOptions
from ipt.evaluation.study.ablations import ABLATIONS
from ipt.evaluation.study.findings import Findings
from ipt.evaluation.study.measuring import StudyMeasurer
from ipt.evaluation.study.options import StudyOptions
from ipt.evaluation.study.report import write_report
from ipt.evaluation.study.run import Study
from ipt.evaluation.study.task_selection import spread_over_families
from ipt.evaluation.untuned_methods import Baseline
from ipt.fitting.direct_fit import FitOptions
from ipt.fitting.task_losses import EncoderTaskLosses
from ipt.fitting.tune_prompts import PromptOptions
from tests.support.datasets import sentiment
from tests.support.tiny import build_tiny_encoder, build_tiny_seq2seq

OPTIONS = StudyOptions(
    dimensions=(3, 8),
    methods=("logistic regression", "PT", "IST"),
    seeds=(100,),
    curve=(),
    fit=FitOptions(decoder_hidden=6, prompt_length=4, steps=2, tasks_per_step=2, rows_per_task=4),
    evaluation=EvaluationOptions(
        per_label=4, hyperparameters=ipt.Hyperparameters(steps=1, batch_size=4), pt_steps=1, pt_learning_rates=(0.1,)
    ),
)


def task(name: str, repeats: int = 4) -> TaskDataset:
    rows = [ipt.Example(f"{row.input} {name}", row.output) for row in sentiment(repeats)]
    return TaskDataset(name, name[0], tuple(rows), tuple(sentiment(1)))


SEEN = [task("a1"), task("a2"), task("b1")]
UNSEEN = [task("c1"), task("c2", repeats=1)]


def study(
    encoder: Backbone, folder: Path, options: StudyOptions = OPTIONS, finished: tuple[ipt.Subspace, ...] = ()
) -> Findings:
    return Study(encoder, SEEN, UNSEEN, finished, folder, options, lambda *_: None).run(lambda _: None)


def test_each_dimension_is_measured_but_baselines_only_once(encoder: EncoderBackbone, tmp_path: Path) -> None:
    findings = study(encoder, tmp_path)
    assert {dim: subspace.intrinsic_dim for dim, subspace in findings.subspaces.items()} == {3: 3, 8: 8}
    for split, tasks in (("seen", {"a1", "a2", "b1"}), ("unseen", {"c1", "c2"})):
        for dim in (3, 8):
            assert {(each.task, each.method) for each in findings.splits[split][dim]} == {
                (name, method) for name in tasks for method in OPTIONS.methods
            }
    # Five tasks: two methods once, IST for each dimension.
    lines = (tmp_path / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == 5 * (2 + 2)
    again = study(encoder, tmp_path)
    assert (tmp_path / "measurements.jsonl").read_text().splitlines() == lines
    assert again.splits == findings.splits


def test_slow_methods_are_measured_on_the_first_draws_only(encoder: EncoderBackbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, dimensions=(3,), seeds=(100, 101), slow_seeds=1, curve=(2,), ablations=("readout",))
    findings = study(encoder, tmp_path, options)
    draws: dict[str, set[int]] = {}
    for each in findings.splits["unseen"][3]:
        draws.setdefault(each.method, set()).add(each.seed)
    assert draws == {"logistic regression": {100, 101}, "PT": {100}, "IST": {100, 101}}
    assert {each.seed for each in findings.curve[2]} == {100}
    assert {each.seed for variant in findings.ablations["readout"] for each in variant.measurements} == {100}


def test_a_study_that_only_reports_fits_and_measures_nothing(encoder: EncoderBackbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, dimensions=(3,), methods=("class names",), curve=())
    reporting = Study(encoder, SEEN, UNSEEN, [], tmp_path, options, lambda *_: None, measuring=False)
    with pytest.raises(ipt.CheckpointError, match="dimension-3 has no finished subspace to report on: let"):
        reporting.run(lambda _: None)
    assert not list(tmp_path.iterdir())
    findings = study(encoder, tmp_path, options)
    more = replace(options, methods=("class names", "logistic regression"))
    reported = Study(encoder, SEEN, UNSEEN, [], tmp_path, more, lambda *_: None, measuring=False).run(lambda _: None)
    assert reported.splits == findings.splits


def test_measurements_made_before_an_interrupt_are_among_the_findings(encoder: EncoderBackbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, dimensions=(3,))
    stop_at: list[str] = ["c2"]

    def on_progress(what: str, done: int, total: int, how: str) -> None:
        if what.startswith("measuring unseen") and how.endswith(stop_at[0]):
            raise KeyboardInterrupt

    running = Study(encoder, SEEN, UNSEEN, (), tmp_path, options, on_progress)
    with pytest.raises(KeyboardInterrupt):
        running.run(lambda _: None)
    assert {(each.task, each.method) for each in running.findings.splits["unseen"][3]} == {
        ("c1", "logistic regression"), ("c1", "IST"),
    }  # fmt: skip
    stop_at[0] = "c1"
    again = Study(encoder, SEEN, UNSEEN, (), tmp_path, options, on_progress)
    with pytest.raises(KeyboardInterrupt):
        again.run(lambda _: None)
    assert len(again.findings.splits["unseen"][3]) == 2


def test_seen_tasks_are_measured_on_rows_that_no_fit_saw(
    encoder: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[str] = set()

    def record(_: EncoderBackbone, examples: Sequence[ipt.Example], texts: Sequence[str]) -> list[str]:
        drawn.update(example.input for example in examples)
        return list(texts)

    monkeypatch.setitem(METHODS, "logistic regression", Baseline("logistic regression", record))
    everything = replace(OPTIONS.evaluation, per_label=10)
    options = replace(OPTIONS, dimensions=(3,), methods=("logistic regression",), evaluation=everything)
    running = Study(encoder, SEEN, [task("c1")], (), tmp_path, options, lambda *_: None)
    running.run(lambda _: None)
    assert isinstance(running.fits.prepared, EncoderTaskLosses)
    fitted = {tuple(ids) for each in running.fits.prepared.tasks for ids in each.token_ids}
    assert len(drawn) == 4 * 20
    assert not fitted & {tuple(ids) for ids in encoder.tokenize(sorted(drawn))}


def test_a_task_with_too_few_rows_is_left_out_and_named(encoder: EncoderBackbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, dimensions=(3,), methods=("IST",), evaluation=replace(OPTIONS.evaluation, per_label=6))
    findings = study(encoder, tmp_path, options)
    assert {each.task for each in findings.splits["unseen"][3]} == {"c1"}
    assert findings.left_out == ["c2: has 5 training rows of 'negative' to draw from, fewer than 6"]
    with pytest.raises(ipt.DatasetError, match="no task can be measured with 11 examples per label; b1: has 10"):
        study(encoder, tmp_path, replace(options, evaluation=replace(OPTIONS.evaluation, per_label=11)))


def test_a_finished_subspace_is_used_for_its_dimension_if_its_backbone_matches(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path: Path
) -> None:
    options = replace(OPTIONS, methods=("IST",))
    findings = study(encoder, tmp_path, options, (subspace,))
    assert findings.subspaces[8] is subspace
    assert not (tmp_path / "dimension-8").exists()
    other = ipt.load_backbone(str(build_tiny_encoder(tmp_path / "encoder", seed=1)), device="cpu")
    with pytest.raises(ipt.SubspaceMismatchError, match="belongs to backbone"):
        study(other, tmp_path, replace(options, dimensions=(3,)))
    with pytest.raises(ipt.SubspaceMismatchError, match="belongs to backbone"):
        study(other, tmp_path / "another", replace(options, dimensions=(8,)), (subspace,))


def test_a_study_of_a_text_backbone_leaves_out_everything_that_needs_an_encoder(tmp_path: Path) -> None:
    text = ipt.load_backbone(str(build_tiny_seq2seq(tmp_path / "t5", "t5")), device="cpu")
    options = replace(
        OPTIONS, methods=tuple(METHODS), dimensions=(3,), curve=(1, 2), ablations=("start", "readout", "placement")
    )
    folder = tmp_path / "study"
    findings = Study(text, SEEN, UNSEEN, (), folder, options, lambda *_: None).run(lambda _: None)
    assert {each.method for each in findings.splits["unseen"][3]} == {"PT", "random", "IST", "IST then PT"}
    assert {per_label: {each.method for each in measured} for per_label, measured in findings.curve.items()} == {
        2: {"IST"}
    }
    # The subspace has task vectors to start at, but a backbone that writes text has no readout.
    assert all(variant.measurements for variant in findings.ablations["start"])
    assert not any(variant.measurements for variant in findings.ablations["readout"])
    assert findings.left_out == ["the ablation 'placement': only an encoder has several places for a prompt"]
    pytest.importorskip("matplotlib", reason="a report has plots")
    write_report(tmp_path / "report.md", tmp_path / "plots", findings, options, [])
    report = (tmp_path / "report.md").read_text()
    assert "E_rel" in report
    assert "logistic regression" not in report


def test_a_folder_with_fits_of_another_study_is_rejected(encoder: EncoderBackbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, dimensions=(3,), methods=("class names",))
    study(encoder, tmp_path, options)
    message = "dimension-3 has a subspace that was found with other tasks, rows or options"
    with pytest.raises(ipt.CheckpointError, match=message):
        study(encoder, tmp_path, replace(options, fit=replace(options.fit, steps=3)))
    other_rows = [replace(SEEN[0], train=SEEN[0].train[2:]), *SEEN[1:]]
    with pytest.raises(ipt.CheckpointError, match=message):
        Study(encoder, other_rows, UNSEEN, (), tmp_path, options, lambda *_: None).run(lambda _: None)


def test_a_folder_with_a_fit_of_another_placement_is_rejected(encoder: EncoderBackbone, tmp_path: Path) -> None:
    options = replace(OPTIONS, dimensions=(3,), methods=("class names",))
    study(encoder.placed("after_last_token"), tmp_path, options)
    with pytest.raises(ipt.CheckpointError, match="was found with other tasks, rows or options"):
        study(encoder, tmp_path, options)


def test_prompt_tuning_is_measured_again_for_another_placement(encoder: EncoderBackbone, tmp_path: Path) -> None:
    first, second = (
        Study(encoder.placed(placement), SEEN, UNSEEN, (), tmp_path / placement, OPTIONS, lambda *_: None)
        for placement in ("after_first_token", "after_last_token")
    )
    subspaces = [each.fits.direct(each.folder / "subspace", OPTIONS.fit) for each in (first, second)]
    measurer = StudyMeasurer(
        encoder, tmp_path / "measurements.jsonl", subspaces, OPTIONS.evaluation, lambda *_: None, only_kept=False
    )
    for subspace in (*subspaces, *subspaces):
        measurer.measure("PT", subspace, UNSEEN[:1], ["PT"], [100])
    assert len((tmp_path / "measurements.jsonl").read_text().splitlines()) == 2


def test_ablations_change_one_thing_each(
    encoder: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.evaluation.study.ablations.TASK_COUNTS", (2, 30))
    monkeypatch.setattr("ipt.evaluation.study.ablations.PROMPT_LENGTHS", (5,))
    short = partial(PromptOptions, per_label=2, hyperparameters=ipt.Hyperparameters(steps=1))
    monkeypatch.setattr("ipt.evaluation.study.fits.PromptOptions", short)
    options = replace(OPTIONS, dimensions=(3,), methods=("IST",), ablations=tuple(ABLATIONS))
    findings = study(encoder, tmp_path, options)
    names = {name: [variant.name for variant in variants] for name, variants in findings.ablations.items()}
    assert len(names["start"]) == 2 * (1 + len(STARTS))
    assert names["tasks"] == ["2 seen tasks", "3 seen tasks (as above)"]
    assert names["prompt-length"] == ["prompt length 5", "prompt length 4 (as above)"]
    assert names["placement"] == [f"prompt {where}" for where in ("before the first token", "after the last token")] + [
        "prompt after the first special token (as above)"
    ]
    assert names["finding"] == ["from tuned prompts, as in the paper", "directly from the tasks (as above)"]
    for variants in findings.ablations.values():
        assert all({each.task for each in variant.measurements} == {"c1", "c2"} for variant in variants)
    manifest = ipt.load_subspace(tmp_path / "ablations" / "tasks-2", encoder).manifest
    assert manifest["training"]["tasks"] == ["a1", "b1"]
    assert ipt.load_subspace(tmp_path / "ablations" / "prompt-length-5", encoder).prompt_length == 5
    placed = ipt.load_subspace(tmp_path / "ablations" / "after_last_token", encoder)
    assert placed.manifest["prompt_placement"] == "after_last_token"
    paper = ipt.load_subspace(tmp_path / "ablations" / "paper", encoder)
    assert (paper.manifest["training"]["method"], paper.intrinsic_dim, paper.prompt_length) == ("autoencoder", 3, 4)


def test_tasks_are_chosen_round_robin_from_the_families() -> None:
    tasks = [task(name) for name in ("a1", "a2", "a3", "b1", "c1")]
    assert [each.name for each in spread_over_families(tasks, 4)] == ["a1", "a2", "b1", "c1"]
    assert [each.name for each in spread_over_families(tasks, 2)] == ["a1", "b1"]
    assert spread_over_families(tasks, None) == tasks


def test_a_study_that_is_killed_repeatedly_ends_like_an_uninterrupted_one(
    encoder: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.fitting.resumable_fit.CHECKPOINT_EVERY_STEPS", 2)
    options = replace(OPTIONS, dimensions=(3,), fit=replace(OPTIONS.fit, steps=5), curve=(1, 2))

    def run(folder: Path, calls: int) -> None:
        left = iter(range(calls))

        def on_progress(*_: object) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        Study(encoder, SEEN[:2], UNSEEN[:1], (), folder, options, on_progress).run(lambda _: None)

    # Forked, so that no child has to import torch.
    context = multiprocessing.get_context("fork")
    exits = []
    for calls in (1, 4, 6, 1, 3, 6, 1000):
        child = context.Process(target=run, args=(tmp_path / "killed", calls))
        child.start()
        child.join()
        exits.append(child.exitcode)
    assert exits == [-signal.SIGKILL] * 6 + [0]
    run(tmp_path / "whole", 1000)
    measured = []
    for folder in ("killed", "whole"):
        records = [json.loads(line) for line in (tmp_path / folder / "measurements.jsonl").read_text().splitlines()]
        measured.append(
            {(*(str(each[key]) for key in ("run", "task", "seed", "method")), each["score"]) for each in records}
        )
        assert len(measured[-1]) == len(records)
    assert measured[0] == measured[1]
    manifests = [(tmp_path / folder / "dimension-3" / "subspace.json").read_text() for folder in ("killed", "whole")]
    assert manifests[0] == manifests[1]
