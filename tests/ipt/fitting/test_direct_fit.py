"""The direct fit on an encoder: training, resuming and saving."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.fitting.resumable_fit import FitProgress
from ipt.fitting.task_losses import EncoderTaskLosses
from ipt.subspace.full_prompt_space import word_prompts
from tests.support.datasets import sentiment, topics

OPTIONS = FitOptions(
    intrinsic_dim=6, decoder_hidden=12, prompt_length=3, steps=30, tasks_per_step=2, rows_per_task=8, warmup_steps=3
)


@pytest.fixture(scope="module")
def tasks() -> list[TaskDataset]:
    return [
        TaskDataset(name, name[:1], tuple(examples), ())
        for name, examples in (("a1", sentiment(4)), ("a2", sentiment(3)), ("b1", topics() * 2))
    ]


def fit(encoder: EncoderBackbone, tasks: list[TaskDataset], options: FitOptions) -> DirectFit:
    return DirectFit(prepare_tasks(encoder, tasks, options), options)


def trained(running: DirectFit) -> dict[str, torch.Tensor]:
    return {**running.decoder.state_dict(), "vectors": running.vectors.detach()}


def test_a_run_stopped_anywhere_resumes_to_the_same_subspace(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path
) -> None:
    options = replace(OPTIONS, steps=8)
    uninterrupted = fit(encoder, tasks, options)
    while not uninterrupted.done:
        uninterrupted.step()
    stopped = fit(encoder, tasks, options)
    for _ in range(3):
        stopped.step()
    stopped.save_checkpoint(tmp_path / "fit.safetensors")
    resumed = fit(encoder, tasks, options)
    resumed.load_checkpoint(tmp_path / "fit.safetensors")
    assert resumed.completed == 3
    while not resumed.done:
        resumed.step()
    for name, tensor in trained(uninterrupted).items():
        torch.testing.assert_close(trained(resumed)[name], tensor, rtol=0, atol=1e-6)


def test_a_fit_that_crashes_and_is_interrupted_ends_like_an_uninterrupted_one(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.fitting.resumable_fit.CHECKPOINT_EVERY_STEPS", 3)
    options = replace(OPTIONS, steps=8)
    uninterrupted = fit(encoder, tasks, options).run_in(tmp_path / "uninterrupted", lambda *_: None)
    steps: list[int] = []

    def interrupt(step: FitProgress, _: object) -> None:
        steps.append(step.step)
        if len(steps) in (5, 8):
            raise RuntimeError if len(steps) == 5 else KeyboardInterrupt

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fit(encoder, tasks, options).run_in(tmp_path / "interrupted", interrupt)
    interrupted = fit(encoder, tasks, options).run_in(tmp_path / "interrupted", interrupt)
    assert steps == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
    assert interrupted.id == uninterrupted.id
    assert interrupted.manifest == uninterrupted.manifest
    assert not (tmp_path / "interrupted" / "fit.safetensors").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_within_a_step_leaves_no_partial_step(
    encoder: EncoderBackbone,
    tasks: list[TaskDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    when: str,
) -> None:
    options = replace(OPTIONS, steps=6)
    uninterrupted = fit(encoder, tasks, options).run_in(tmp_path / "uninterrupted", lambda *_: None)
    running = fit(encoder, tasks, options)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup starts a process that ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    vectors = running.vector_optimizer
    step = vectors.step

    def step_and_interrupt(*arguments: Any) -> None:
        if when == "after":
            step(*arguments)
        if running.completed == 3:
            os.kill(os.getpid(), signal.SIGINT)
        if when == "before":
            step(*arguments)

    monkeypatch.setattr(vectors, "step", step_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        running.run_in(tmp_path / "interrupted", lambda *_: None)
    resumed = fit(encoder, tasks, options)
    resumed.load_checkpoint(tmp_path / "interrupted" / "fit.safetensors")
    assert resumed.completed == 4
    interrupted = fit(encoder, tasks, options).run_in(tmp_path / "interrupted", lambda *_: None)
    assert (interrupted.id, interrupted.manifest) == (uninterrupted.id, uninterrupted.manifest)


def test_a_checkpoint_of_other_tasks_or_options_is_rejected(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path
) -> None:
    running = fit(encoder, tasks, OPTIONS)
    running.save_checkpoint(tmp_path / "fit.safetensors")
    for other in (fit(encoder, tasks[:2], OPTIONS), fit(encoder, tasks, replace(OPTIONS, seed=1))):
        with pytest.raises(ipt.CheckpointError, match="other tasks or options"):
            other.load_checkpoint(tmp_path / "fit.safetensors")


def test_a_fit_resumed_with_other_steps_records_them_and_rejects_fewer_than_it_has(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path
) -> None:
    def stop(step: FitProgress, _: object) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(encoder, tasks, replace(OPTIONS, steps=8)).run_in(tmp_path / "out", stop)
    with pytest.raises(ipt.CheckpointError, match="has 3 steps, more than the 2 requested"):
        fit(encoder, tasks, replace(OPTIONS, steps=2)).run_in(tmp_path / "out", lambda *_: None)
    subspace = fit(encoder, tasks, replace(OPTIONS, steps=5)).run_in(tmp_path / "out", lambda *_: None)
    training = subspace.manifest["training"]
    assert (training["options"]["steps"], training["steps_asked_before"]) == (5, [8])


def test_a_damaged_checkpoint_is_rejected(encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    fit(encoder, tasks, OPTIONS).save_checkpoint(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for broken, kept in (({"completed": "abc"}, tensors), ({}, {"vectors": tensors["vectors"][:1]})):
        save_file(kept, path, metadata | broken)
        with pytest.raises(ipt.CheckpointError, match="a damaged checkpoint; remove it to start again"):
            fit(encoder, tasks, OPTIONS).load_checkpoint(path)


def test_a_fit_that_diverges_is_an_error(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = fit(encoder, tasks, replace(OPTIONS, steps=8))
    measure = running.losses.measure

    def diverge(*arguments: Any) -> Any:
        losses, accuracies = measure(*arguments)
        return losses * (float("nan") if running.completed == 4 else 1.0), accuracies

    monkeypatch.setattr(running.losses, "measure", diverge)
    with pytest.raises(ipt.SubspaceError, match=r"the fit diverged: the loss of step 5 is nan\. Remove .*out and try"):
        running.run_in(tmp_path / "out", lambda *_: None)
    assert running.completed == 5


def test_prompts_that_leave_no_room_for_text_are_rejected(encoder: EncoderBackbone, tasks: list[TaskDataset]) -> None:
    longest = encoder.max_positions - 3  # two special tokens and one of the text
    assert fit(encoder, tasks, replace(OPTIONS, prompt_length=longest)).decoder.prompt_length == longest
    for length in (longest + 1, 10**8):
        with pytest.raises(ipt.IptError, match=f"a soft prompt of {length} positions leaves no room for text"):
            fit(encoder, tasks, replace(OPTIONS, prompt_length=length))
        with pytest.raises(ipt.IptError, match=f"a soft prompt of {length} positions leaves no room for text"):
            word_prompts(encoder, length, seed=0)


def test_a_second_process_cannot_fit_in_the_same_folder(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path
) -> None:
    errors: list[str] = []
    folder = str(tmp_path / "out")

    def start_another(step: FitProgress, _: object) -> None:
        if step.step == 2:
            lock = "from pathlib import Path; from ipt.runtime.process_lock import hold_lock"
            program = f"{lock}\nwith hold_lock(Path({folder!r})): pass"
            process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
            errors.append(process.stderr.splitlines()[-1])

    fit(encoder, tasks, OPTIONS).run_in(tmp_path / "out", start_another)
    assert "out: another process is writing it" in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_fit_lowers_the_loss_and_changes_only_decoder_and_vectors(
    encoder: EncoderBackbone, tasks: list[TaskDataset]
) -> None:
    backbone_before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    running = fit(encoder, tasks, replace(OPTIONS, steps=40, decoder_learning_rate=5e-3))
    before = {name: tensor.clone() for name, tensor in trained(running).items()}
    losses = []
    while not running.done:
        losses.append(running.step().loss)
    assert sum(losses[-8:]) < sum(losses[:8])
    assert all(not torch.equal(before[name], tensor) for name, tensor in trained(running).items())
    assert all(torch.equal(backbone_before[n], t) for n, t in encoder.model.state_dict().items())


def test_tasks_of_a_family_share_its_vector_and_all_vectors_are_saved(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path
) -> None:
    running = fit(encoder, tasks, OPTIONS)
    assert running.families == ["a", "b"]
    with torch.no_grad():
        running.vectors[0] += 1.0
    a1, a2, b1 = running.task_vectors
    assert [round(v.mean().item()) for v in (a1, a2, b1)] == [1, 1, 0]
    saved = running.save(tmp_path, {})
    starts = torch.stack([torch.zeros(6), (a1 + a2) / 2, b1])
    torch.testing.assert_close(saved.initial_vectors, starts, atol=1e-3, rtol=0)
    assert saved.task_vectors is not None
    torch.testing.assert_close(saved.task_vectors, running.task_vectors, atol=1e-3, rtol=0)


def test_the_bias_of_the_decoder_has_a_rate_of_its_own(encoder: EncoderBackbone, tasks: list[TaskDataset]) -> None:
    changes = []
    for rate in (None, 0.5):
        running = fit(encoder, tasks, replace(OPTIONS, bias_learning_rate=rate))
        before = {name: value.clone() for name, value in running.decoder.state_dict().items()}
        running.step()
        after = running.decoder.state_dict()
        changes.append({name: (after[name] - value).abs().max().item() for name, value in before.items()})
    shared, faster = changes
    ratio = 0.5 / OPTIONS.decoder_learning_rate
    assert faster["project.bias"] == pytest.approx(shared["project.bias"] * ratio, rel=0.01)
    assert faster["project.weight"] == pytest.approx(shared["project.weight"], rel=0.01)


@pytest.mark.parametrize(("zero", "family", "moved"), [(1.0, 0.0, set()), (0.0, 1.0, {0, 1}), (0.0, 0.0, {0, 1, 2, 3})])
def test_a_step_moves_only_the_vectors_that_it_drew(
    encoder: EncoderBackbone, tasks: list[TaskDataset], zero: float, family: float, moved: set[int]
) -> None:
    options = replace(OPTIONS, zero_vector_probability=zero, family_vector_probability=family)
    running = fit(encoder, tasks[1:], options)  # one task a family, and both in every step
    before = running.vectors.detach().clone()
    running.step()
    assert {row for row in range(4) if not torch.equal(before[row], running.vectors[row])} == moved


def test_the_fit_sees_at_most_half_of_a_labels_rows(encoder: EncoderBackbone, tasks: list[TaskDataset]) -> None:
    for examples_per_label, seen in ((64, 10), (4, 4)):  # of 20
        options = replace(OPTIONS, examples_per_label=examples_per_label)
        losses = prepare_tasks(encoder, tasks[:1], options)
        assert isinstance(losses, EncoderTaskLosses)
        assert [len(rows) for rows in losses.tasks[0].rows_of_class] == [seen, seen]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            ["yes"] * 4 + ["no"],
            r"^bad\.jsonl: the label 'no' has 1 training row .*at least two of every label: add rows",
        ),
        ([f"text {number}" for number in range(8)], r"^bad\.jsonl: the outputs are texts.* an encoder does not write"),
    ],
)
def test_a_task_that_an_encoder_cannot_learn_from_is_named_with_its_fault(
    encoder: EncoderBackbone, tasks: list[TaskDataset], tmp_path: Path, outputs: list[str], message: str
) -> None:
    rows = [{"split": "train", "input": f"input {n}", "output": output} for n, output in enumerate(outputs)]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    [bad] = read_task_folder(tmp_path).tasks
    with pytest.raises(ipt.DatasetError, match=message):
        prepare_tasks(encoder, [*tasks, bad], OPTIONS)
    with pytest.raises(ipt.DatasetError, match=message.replace(r"\.jsonl", "")):
        prepare_tasks(encoder, [replace(bad, source=None)], OPTIONS)
