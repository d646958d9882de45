"""The auto-encoder over tuned prompts: its maths against a plain restatement, resuming and saving."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import Backbone, TextBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.fitting.autoencoder_fit import AutoencoderFit, AutoencoderOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from tests.support.datasets import sentiment, topics

P, H = 3, 32
OPTIONS = AutoencoderOptions(
    intrinsic_dim=5,
    decoder_hidden=12,
    steps=8,
    tasks_per_step=2,
    rows_per_task=6,
    max_tokens=12,
    learning_rate=3e-3,
)
TASKS = [TaskDataset(name, name, tuple(rows), ()) for name, rows in (("a", sentiment(2)), ("b", topics() * 2))]


def tuned(*names: str) -> dict[str, Tensor]:
    return {name: torch.randn(P, H, generator=torch.Generator().manual_seed(n)) for n, name in enumerate(names)}


def fit(backbone: Backbone, prompts: dict[str, Tensor], options: AutoencoderOptions) -> AutoencoderFit:
    return AutoencoderFit(prepare_tasks(backbone, TASKS, options), prompts, options)


def trained(running: AutoencoderFit) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in running._learned().items()}


@pytest.mark.parametrize("dim", [5, 10])
def test_a_step_equals_the_papers(text: TextBackbone, dim: int) -> None:
    """One step, restated: both losses with plain matrices, their gradients, clipping, and Adam's first step."""
    options = replace(OPTIONS, intrinsic_dim=dim)
    prompts = tuned("a", "b")
    running = fit(text, prompts, options)
    before = trained(running)
    weights = {name: value.clone().requires_grad_(True) for name, value in before.items()}
    shown = running.step()

    rng = np.random.default_rng([options.seed, 0])
    chosen = rng.permutation(2).tolist()
    for _ in chosen:
        rng.integers(1)
    target = torch.stack([prompts["ab"[task]] for task in chosen]).flatten(1)
    vectors = target @ weights["encoder.compress.weight"].T + weights["encoder.compress.bias"]
    assert vectors.shape == (2, dim)
    hidden = torch.tanh(vectors @ weights["decoder.expand.weight"].T + weights["decoder.expand.bias"])
    decoded = hidden @ weights["decoder.project.weight"].T + weights["decoder.project.bias"]
    reconstruction = ((decoded - target) ** 2).sum() / target.numel()
    losses = []
    for task, prompt in zip(chosen, decoded.view(2, P, H), strict=True):
        data: Any = running.losses.tasks[task]
        rows = rng.permutation(len(data.inputs))[: options.rows_per_task].tolist()
        inputs, targets = [data.inputs[row] for row in rows], [data.targets[row] for row in rows]
        prompts_of_rows = prompt.expand(len(rows), -1, -1)
        losses.append(text.target_cross_entropy(inputs, targets, prompts_of_rows, label_smoothing=0.1).mean())
    task_loss = (losses[0] + losses[1]) / 2
    assert shown.reconstruction == pytest.approx(reconstruction.item(), rel=1e-5)
    assert shown.loss == pytest.approx(task_loss.item(), rel=1e-5)

    gradients = torch.autograd.grad(200 * reconstruction + task_loss, list(weights.values()))
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    after = trained(running)
    for (name, value), gradient in zip(before.items(), gradients, strict=True):
        clipped = gradient * min(1.0, 0.1 / norm)
        # Of eight steps only the first is warm-up; Adam's first step is rate · g / (|g| + ε).
        moved = value - options.learning_rate * clipped / (clipped.abs() + 1e-8)
        settled = clipped.abs() > 1e-5  # ε is negligible
        torch.testing.assert_close(after[name][settled], moved[settled], atol=2e-5, rtol=0)
        assert settled.float().mean() > 0.5


def test_the_fit_lowers_the_reconstruction_error(text: TextBackbone) -> None:
    running = fit(text, tuned("a", "b"), replace(OPTIONS, steps=60, learning_rate=1e-2, task_weight=0.01))
    steps = [running.step() for _ in range(60)]
    first, last = steps[0].reconstruction, steps[-1].reconstruction
    assert first is not None
    assert last is not None
    assert last < 0.1 * first
    assert running.done


def test_on_an_encoder_the_constants_of_the_loss_are_trained_too(encoder: EncoderBackbone, tmp_path: Path) -> None:
    running = fit(encoder, tuned("a", "b"), OPTIONS)
    shown = [running.step() for _ in range(8)]
    assert all(step.accuracy is not None for step in shown)
    saved = running.save(tmp_path, {"loss": 0.5})
    training = saved.manifest["training"]
    assert training["readout"]["ridge"] != 0.3
    assert ipt.adapt(encoder, saved, sentiment(), hyperparameters=ipt.Hyperparameters(steps=1)).head.vector.shape == (
        5,
    )


def test_a_resumed_fit_equals_an_uninterrupted_one(text: TextBackbone, tmp_path: Path) -> None:
    prompts = tuned("a", "a#1", "b")
    uninterrupted, stopped, resumed = (fit(text, prompts, OPTIONS) for _ in range(3))
    while not uninterrupted.done:
        uninterrupted.step()
    for _ in range(3):
        stopped.step()
    stopped.save_checkpoint(tmp_path / "fit.safetensors")
    resumed.load_checkpoint(tmp_path / "fit.safetensors")
    while not resumed.done:
        resumed.step()
    for name, value in trained(uninterrupted).items():
        assert torch.equal(trained(resumed)[name], value), name


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_rejected(encoder: EncoderBackbone, tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    fit(encoder, tuned("a", "b"), OPTIONS).save_checkpoint(path)
    fit(encoder, tuned("a", "b"), replace(OPTIONS, steps=99)).load_checkpoint(path)
    for other in (fit(encoder, tuned("b", "a"), OPTIONS), fit(encoder, tuned("a", "b"), replace(OPTIONS, seed=1))):
        with pytest.raises(ipt.CheckpointError, match="other tasks or options"):
            other.load_checkpoint(path)
    path.write_bytes(b"junk")
    with pytest.raises(ipt.CheckpointError, match=r"fit\.safetensors: not a readable checkpoint"):
        fit(encoder, tuned("a", "b"), OPTIONS).load_checkpoint(path)


def test_the_saved_subspace_has_its_encoder_and_one_vector_per_task(encoder: EncoderBackbone, tmp_path: Path) -> None:
    prompts = tuned("a", "a#1", "b")
    running = fit(encoder, prompts, OPTIONS)
    running.step()
    saved = running.save(tmp_path, {"loss": 0.5, "reconstruction": 0.1})
    training = saved.manifest["training"]
    assert (training["method"], training["tasks"], training["loss"]) == ("autoencoder", ["a", "b"], 0.5)
    assert training["options"]["reconstruction_weight"] == 200.0
    of_prompts = saved.compress(torch.stack(list(prompts.values())))
    expected = torch.stack([of_prompts[:2].mean(dim=0), of_prompts[2]])
    assert saved.task_vectors is not None
    torch.testing.assert_close(saved.task_vectors, expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(saved.initial_vectors, expected.mean(dim=0, keepdim=True), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (lambda: tuned("a"), "no prompt for task 'b'"),
        (lambda: tuned("a", "b", "c"), "prompt 'c' has no task"),
        (lambda: tuned("a", "b", "c#1"), "prompt 'c#1' has no task"),
        (lambda: tuned("a") | {"b": torch.zeros(P + 1, H)}, "differ in shape"),
    ],
)
def test_prompts_that_do_not_match_the_tasks_are_rejected(
    encoder: EncoderBackbone, prompts: Callable[[], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(ipt.DatasetError, match=message):
        fit(encoder, prompts(), OPTIONS)
