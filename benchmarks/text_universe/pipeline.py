"""Fit subspaces of the pre-trained backbone, without instruction words, and measure tuning in them.

Each part stores its results in the folder of the run, so that an interrupted run resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import ipt
from benchmarks.text_universe.tasks import PREFIX, UniverseTask
from ipt.backbones.interface import TextBackbone
from ipt.data.examples import infer_kind, labels_of
from ipt.data.task_dataset import TaskDataset
from ipt.evaluation.evaluation import Evaluation
from ipt.evaluation.measurement_file import IdentityOf
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.protocol import EvaluationOptions
from ipt.fitting.autoencoder_fit import AutoencoderFit, AutoencoderOptions
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.fit_rows import RowOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.fitting.resumable_fit import ResumableFit
from ipt.fitting.task_losses import TaskLosses
from ipt.fitting.tune_prompts import PromptOptions, tune_prompts
from ipt.runtime.atomic_files import replace_atomically
from ipt.subspace.full_prompt_space import full_prompt_space
from ipt.subspace.soft_prompt_files import read_prompts

FIT_ROWS, FEW_SHOT_ROWS, TEST_ROWS = 256, 128, 100
CHECKPOINT_EVERY_STEPS = 100
PROMPTS_FILE = "prompts.safetensors"
UNTUNED = ("words", "no prompt", "zero vector")
ROWS = RowOptions(tasks_per_step=8, rows_per_task=8)
"""Many tasks and few rows per step, since a subspace learns how tasks differ."""
IST = ipt.Hyperparameters(steps=100, learning_rate=0.1)
PROMPTS = PromptOptions(PREFIX, hyperparameters=ipt.Hyperparameters(steps=100, learning_rate=0.03))
OPTIONS = EvaluationOptions(hyperparameters=IST)


def fit_part(task: UniverseTask) -> TaskDataset:
    """Return the rows for a fit."""
    [rows, *_] = task.rows((FIT_ROWS, FEW_SHOT_ROWS, TEST_ROWS), seed=0)
    return TaskDataset(task.name, task.family, rows, ())


def measured_part(task: UniverseTask) -> TaskDataset:
    """Return other rows: training rows for few-shot examples, and test rows."""
    _, train, test = task.rows((FIT_ROWS, FEW_SHOT_ROWS, TEST_ROWS), seed=0)
    return TaskDataset(task.name, task.family, train, test)


OnStep = Callable[[int], None]
"""Called with the number of steps since the last call."""


def ignore(_steps: int) -> None:
    """Report no progress."""


def fit_directly(
    backbone: TextBackbone, tasks: Sequence[UniverseTask], dim: int, steps: int, folder: Path, on_step: OnStep = ignore
) -> None:
    """Fit decoder and task vectors together (`ipt subspace fit`)."""
    if folder.is_dir():
        on_step(steps)
        return
    # The zero vector and family vectors cannot identify a task here, so they are drawn less often than by default.
    options = FitOptions(
        **asdict(ROWS),
        intrinsic_dim=dim,
        prompt_length=PREFIX,
        steps=steps,
        zero_vector_probability=0.1,
        family_vector_probability=0.1,
    )
    _run(DirectFit(_losses(backbone, tasks, options), options), folder, on_step)


def fit_autoencoder(
    backbone: TextBackbone, tasks: Sequence[UniverseTask], dim: int, steps: int, folder: Path, on_step: OnStep = ignore
) -> None:
    """Fit as in the paper, on the prompts that `tune` stored next to `folder`."""
    if folder.is_dir():
        on_step(steps)
        return
    options = AutoencoderOptions(**asdict(ROWS), intrinsic_dim=dim, steps=steps, learning_rate=1e-3)
    prompts = read_prompts(folder.with_name(PROMPTS_FILE), backbone)
    _run(AutoencoderFit(_losses(backbone, tasks, options), prompts, options), folder, on_step)


def tune(backbone: TextBackbone, tasks: Sequence[UniverseTask], work: Path, on_step: OnStep = ignore) -> None:
    """Tune one soft prompt per task (`ipt subspace tune-prompts`)."""
    done = 0

    def report(now: int, _total: int, _tasks: int) -> None:
        nonlocal done
        on_step(now - done)
        done = now

    tune_prompts(backbone, [fit_part(task) for task in tasks], work / PROMPTS_FILE, PROMPTS, on_step=report)


def identity(backbone: TextBackbone, subspace: Path | None) -> IdentityOf:
    """Return the function that identifies the setup of a method's measurements."""
    return Evaluation(backbone, _space(backbone, subspace), OPTIONS).identity


def measure(
    backbone: TextBackbone,
    name: str,
    subspace: Path | None,
    task: UniverseTask,
    seed: int,
    methods: Sequence[str],
    on_step: OnStep = ignore,
) -> tuple[str, list[Measurement]]:
    """Measure exact match, or accuracy for labels, of methods from `ipt.evaluation.methods` and of untuned ones.

    Args:
        name: returned with the measurements.
        subspace: without one, only PT and the untuned methods without a vector can be measured.
    """
    space = _space(backbone, subspace)
    part = measured_part(task)
    measurements: list[Measurement] = []
    for method in methods:
        if method in UNTUNED:
            measurements.append(_untuned(backbone, space, task, part, seed, method))
        else:
            measurements += Evaluation(backbone, space, OPTIONS).measure(part, seed, (method,))
        on_step(1)
    return name, measurements


def _space(backbone: TextBackbone, subspace: Path | None) -> ipt.Subspace:
    return full_prompt_space(backbone, PREFIX) if subspace is None else ipt.load_subspace(subspace, backbone)


def _untuned(
    backbone: TextBackbone, space: ipt.Subspace, task: UniverseTask, part: TaskDataset, seed: int, method: str
) -> Measurement:
    started = time.perf_counter()
    rng = np.random.default_rng([seed, 1])
    texts = [row.input for row in part.test]
    inputs = backbone.tokenize([task.with_words(text, rng) for text in texts] if method == "words" else texts)
    prompts = None
    if method == "zero vector":
        with torch.no_grad():
            prompts = space.decoder(torch.zeros(len(texts), space.intrinsic_dim))
    if infer_kind(part.train) == "classification":
        labels = labels_of(part.train)
        scores = backbone.score_labels(inputs, backbone.tokenize_targets(labels), prompts)
        answers = [labels[i] for i in scores.argmax(dim=1).tolist()]
    else:
        answers = backbone.generate(inputs, prompts)
    score = sum(answer == row.output for answer, row in zip(answers, part.test, strict=True)) / len(part.test)
    return Measurement(task.name, task.family, seed, method, score, time.perf_counter() - started, {})


def _losses(backbone: TextBackbone, tasks: Sequence[UniverseTask], options: RowOptions) -> TaskLosses:
    return prepare_tasks(backbone, [fit_part(task) for task in tasks], options)


def _run(fit: ResumableFit, folder: Path, on_step: OnStep) -> None:
    checkpoint = folder.with_name(f"{folder.name}.safetensors")
    if checkpoint.is_file():
        fit.load_checkpoint(checkpoint)
        on_step(fit.completed)
    while not fit.done:
        fit.step()
        if fit.completed % CHECKPOINT_EVERY_STEPS == 0:
            fit.save_checkpoint(checkpoint)
        on_step(1)
    with replace_atomically(folder) as temporary:
        fit.save(temporary, {})
    checkpoint.unlink(missing_ok=True)
