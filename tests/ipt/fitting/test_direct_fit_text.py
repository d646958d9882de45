"""The direct fit on backbones that write text, and the loss of a task there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.interface import TextBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.fitting.task_losses import TextTaskLosses
from tests.support.datasets import sentiment, topics

OPTIONS = FitOptions(
    intrinsic_dim=5,
    decoder_hidden=12,
    prompt_length=3,
    steps=6,
    tasks_per_step=2,
    rows_per_task=6,
    warmup_steps=2,
    max_tokens=12,
    decoder_learning_rate=1e-2,
)
ECHO = [ipt.Example(f"{word} dog", f"the {word} dog sat") for word in ("good", "bad", "red", "blue", "new", "old")]


@pytest.fixture(scope="module")
def tasks() -> list[TaskDataset]:
    """Two classification tasks and a text-to-text task."""
    rows = {"a1": sentiment(2), "a2": topics(), "b1": ECHO}
    return [TaskDataset(name, name[:1], tuple(examples), ()) for name, examples in rows.items()]


def fit(text: TextBackbone, tasks: list[TaskDataset], options: FitOptions) -> DirectFit:
    return DirectFit(prepare_tasks(text, tasks, options), options)


def test_each_task_has_the_loss_of_its_rows_with_its_prompt(text: TextBackbone, tasks: list[TaskDataset]) -> None:
    losses = prepare_tasks(text, tasks, OPTIONS)
    assert isinstance(losses, TextTaskLosses)
    drawn = losses.draw([2, 0], np.random.default_rng(1))
    prompts = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    together, accuracies = losses.measure(drawn, prompts)
    assert accuracies is None
    for part, prompt, loss in zip(drawn, prompts, together, strict=True):
        task = losses.tasks[part.task]
        inputs, targets = [task.inputs[row] for row in part.rows], [task.targets[row] for row in part.rows]
        expected = text.target_cross_entropy(inputs, targets, prompt.expand(len(inputs), -1, -1), label_smoothing=0.1)
        torch.testing.assert_close(loss, expected.mean())
    assert [len(part.rows) for part in drawn] == [3, 6]  # half of the six texts, six of ten labelled rows


def test_long_inputs_are_shortened(text: TextBackbone) -> None:
    row = [ipt.Example("good " * 40, label) for label in ("yes", "no")] * 4
    losses = prepare_tasks(text, [TaskDataset("long", "long", tuple(row), ())], OPTIONS)
    assert isinstance(losses, TextTaskLosses)
    assert {len(ids) for ids in losses.tasks[0].inputs} == {12}


def test_the_fit_lowers_the_loss_and_leaves_the_backbone_unchanged(
    text: TextBackbone, tasks: list[TaskDataset]
) -> None:
    before = {name: tensor.clone() for name, tensor in text.model.state_dict().items()}
    running = fit(text, tasks, replace(OPTIONS, steps=30, tasks_per_step=3, decoder_learning_rate=5e-2))
    steps = []
    while not running.done:
        steps.append(running.step())
    assert sum(step.loss for step in steps[-6:]) < 0.95 * sum(step.loss for step in steps[:6])
    assert {step.accuracy for step in steps} == {None}
    assert all(torch.equal(before[name], tensor) for name, tensor in text.model.state_dict().items())


def test_a_resumed_fit_equals_an_uninterrupted_one_and_is_saved(
    text: TextBackbone, tasks: list[TaskDataset], tmp_path: Path
) -> None:
    uninterrupted, stopped, resumed = (fit(text, tasks, OPTIONS) for _ in range(3))
    while not uninterrupted.done:
        uninterrupted.step()
    stopped.step()
    stopped.step()
    stopped.save_checkpoint(tmp_path / "fit.safetensors")
    resumed.load_checkpoint(tmp_path / "fit.safetensors")
    while not resumed.done:
        resumed.step()
    for name, tensor in uninterrupted.decoder.state_dict().items():
        assert torch.equal(resumed.decoder.state_dict()[name], tensor), name
    assert torch.equal(resumed.vectors, uninterrupted.vectors)

    saved = resumed.save(tmp_path / "subspace", {"loss": 1.0})
    assert saved.manifest["training"]["tasks"] == ["a1", "a2", "b1"]
    assert "readout" not in saved.manifest["training"]
    hyperparameters = ipt.Hyperparameters(steps=1)
    assert ipt.adapt(text, saved, sentiment(), hyperparameters=hyperparameters).head.subspace_id == saved.id
