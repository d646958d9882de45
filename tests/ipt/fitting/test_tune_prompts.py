"""Plain prompt tuning of many tasks: sharing batches, and resuming after a kill."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import TextBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.fitting.tune_prompts import PromptOptions, tune_prompts
from ipt.subspace.full_prompt_space import full_prompt_space
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.soft_prompt_files import read_prompts
from ipt.tuning.engine import TuningEngine
from ipt.tuning.tuning_loop import TuningLoop
from tests.support.datasets import sentiment, topics
from tests.support.tuned import always_keep_the_start

OPTIONS = PromptOptions(3, 4, ipt.Hyperparameters(steps=3, batch_size=6, learning_rate=0.05))
ECHO = [ipt.Example(f"{word} dog", f"the {word} dog") for word in ("good", "bad", "red", "blue", "new", "old")]
TASKS = [
    TaskDataset(n, n, tuple(rows), ()) for n, rows in (("a", sentiment(2)), ("b", topics() * 2), ("c", sentiment(1)))
]

pytestmark = pytest.mark.usefixtures("keep_tuned")


class KilledError(Exception):
    pass


def test_a_prompt_tuned_with_others_equals_one_tuned_alone(encoder: EncoderBackbone, tmp_path: Path) -> None:
    output = tmp_path / "prompts.safetensors"
    seen: list[tuple[int, int, int]] = []
    report = tune_prompts(encoder, TASKS, output, OPTIONS, batch_tasks=2, on_step=lambda *at: seen.append(at))
    prompts = read_prompts(output, encoder)
    assert set(prompts) == set(report["tasks"]) == {"a", "b", "c"}
    assert json.loads((tmp_path / "prompts.json").read_text()) == report
    assert seen[-1] == (9, 9, 3)
    entry = report["tasks"]["a"]
    assert (entry["held_back"], entry["moved"], entry["score_source"]) == (8, True, "held_back")
    assert 0 <= entry["score"] <= 1
    # "c" has no rows left to hold back, so one example of each label is taken from the tuning rows.
    assert report["tasks"]["c"]["held_back"] == 2
    assert report["notes"] == []
    tune_prompts(encoder, TASKS[1:2], tmp_path / "alone.safetensors", OPTIONS)
    torch.testing.assert_close(read_prompts(tmp_path / "alone.safetensors")["b"], prompts["b"])


def test_prompts_finished_before_a_kill_are_kept(encoder: EncoderBackbone, tmp_path: Path) -> None:
    output = tmp_path / "prompts.safetensors"

    def kill(_: int, __: int, finished: int) -> None:
        if finished:
            raise KilledError

    with pytest.raises(KilledError):
        tune_prompts(encoder, TASKS, output, OPTIONS, batch_tasks=1, on_step=kill)
    before = read_prompts(output)
    assert set(before) == {"a"}
    seen: list[int] = []
    report = tune_prompts(encoder, TASKS, output, OPTIONS, batch_tasks=1, on_step=lambda done, *_: seen.append(done))
    assert seen[0] >= 3
    after = read_prompts(output)
    assert torch.equal(before["a"], after["a"])
    uninterrupted = tune_prompts(encoder, TASKS, tmp_path / "whole.safetensors", OPTIONS)
    assert uninterrupted["tasks"].keys() == report["tasks"].keys()
    for name, prompt in read_prompts(tmp_path / "whole.safetensors").items():
        torch.testing.assert_close(after[name], prompt)
    assert not list(tmp_path.glob("*.partial"))


def test_prompts_are_tuned_to_the_last_step(
    encoder: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TuningLoop, "record_validation", always_keep_the_start)
    options = replace(OPTIONS, hyperparameters=replace(OPTIONS.hyperparameters, steps=40))
    report = tune_prompts(encoder, TASKS, tmp_path / "prompts.safetensors", options)
    assert [(entry["steps_run"], entry["moved"]) for entry in report["tasks"].values()] == [(40, False)] * 3


def test_prompts_start_at_the_zero_vector_of_a_subspace(encoder: EncoderBackbone, tmp_path: Path) -> None:
    placed = encoder.placed("upper_layers")
    decoder = SubspaceDecoder(5, 6, placed.prompt_rows(1), placed.hidden_size)
    start = ipt.save_subspace(tmp_path / "start", decoder, placed, dtype=torch.float32)
    options = replace(OPTIONS, hyperparameters=replace(OPTIONS.hyperparameters, learning_rate=1e-6))
    output = tmp_path / "prompts.safetensors"
    report = tune_prompts(encoder, TASKS[:1], output, options, start=start)
    assert report["start"] == start.id
    assert report["options"]["prompt_length"] == start.prompt_length
    [prompt] = read_prompts(output, placed).values()
    torch.testing.assert_close(prompt, start.zero_prompt(), atol=1e-4, rtol=0)
    with pytest.raises(ipt.CheckpointError, match="other tasks or options"):
        tune_prompts(encoder, TASKS[:1], output, options)


def test_prompts_of_another_run_are_not_overwritten(encoder: EncoderBackbone, tmp_path: Path) -> None:
    output = tmp_path / "prompts.safetensors"
    tune_prompts(encoder, TASKS[2:], output, OPTIONS)
    data = output.read_bytes()
    for tasks, options in ((TASKS, OPTIONS), (TASKS[2:], replace(OPTIONS, per_label=3))):
        with pytest.raises(ipt.CheckpointError, match="other tasks or options"):
            tune_prompts(encoder, tasks, output, options)
    (tmp_path / "prompts.json").unlink()
    with pytest.raises(ipt.CheckpointError, match="other tasks or options"):
        tune_prompts(encoder, TASKS[2:], output, OPTIONS)
    assert output.read_bytes() == data
    with pytest.raises(ipt.CheckpointError, match="must be named"):
        tune_prompts(encoder, TASKS, tmp_path / "prompts.json", OPTIONS)


def test_a_run_that_ends_before_its_first_prompt_leaves_nothing(
    encoder: EncoderBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(TuningEngine, "step", fail)
    with pytest.raises(MemoryError):
        tune_prompts(encoder, TASKS, tmp_path / "prompts.safetensors", OPTIONS)
    assert not list(tmp_path.iterdir())


def test_tasks_of_labels_and_of_texts_are_tuned_together(text: TextBackbone, tmp_path: Path) -> None:
    tasks = [TASKS[0], TaskDataset("echo", "echo", tuple(ECHO), ())]
    output = tmp_path / "prompts.safetensors"
    report = tune_prompts(text, tasks, output, replace(OPTIONS, per_label=2))
    assert [report["tasks"][name]["score_metric"] for name in ("a", "echo")] == ["accuracy", "exact_match"]
    assert report["tasks"]["echo"]["held_back"] == 2  # four are tuned on
    more = tune_prompts(text, tasks, tmp_path / "more.safetensors", replace(OPTIONS, per_label=11))
    assert more["notes"] == [
        "a: tuned on all 10 training rows of 'negative', fewer than the 11 requested",
        "echo: tuned on all 6 training rows, fewer than the 22 requested",
    ]
    start = full_prompt_space(text, 3).initial_vectors.view(3, -1)
    prompts = read_prompts(output, text)
    assert all(not torch.equal(prompts[name], start) for name in ("a", "echo"))


def test_a_task_that_cannot_be_tuned_on_is_named_before_any_tuning(encoder: EncoderBackbone, tmp_path: Path) -> None:
    tasks = [*TASKS, TaskDataset("echo", "echo", tuple(ECHO), ())]
    with pytest.raises(ipt.DatasetError, match=r"echo: the outputs are texts, .* an encoder does not write text"):
        tune_prompts(encoder, tasks, tmp_path / "prompts.safetensors", OPTIONS)
    assert not list(tmp_path.iterdir())
