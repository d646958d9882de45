"""Plain prompt tuning (PT) of many tasks, for the soft prompts that `ipt.fitting.autoencoder_fit` trains on.

Several tasks share the batches of one `TuningEngine` over the whole prompt space. Finished prompts are kept in a file,
with a report beside it, so that a run that was killed resumes with the remaining tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipt.backbones.interface import Backbone
from ipt.data.examples import Example, TaskKind, infer_kind
from ipt.data.preparation import check_unified
from ipt.data.sampling import TEXTS_PER_LABEL, rows_lacking, rows_per_label
from ipt.data.task_dataset import TaskDataset, row_notes
from ipt.errors import CheckpointError, DatasetError
from ipt.fitting.fit_rows import fault_of_task
from ipt.runtime.atomic_files import replace_atomically
from ipt.runtime.process_lock import hold_lock
from ipt.subspace.full_prompt_space import full_prompt_space, word_prompts
from ipt.subspace.soft_prompt_files import backbone_metadata, read_prompts, save_prompts
from ipt.subspace.subspace import Subspace
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, Hyperparameters, Progress, TuningJob

REPORTED_METRICS = ("score_metric", "score_source", "score", "baseline_score", "held_back", "steps_run")
REVISION = 2
"""Raised when the same options give other prompts: a run of an earlier revision is not resumed."""
DEFAULTS = Hyperparameters(steps=100)


@dataclass(frozen=True)
class PromptOptions:
    """How prompts are tuned, and on how many rows of each task.

    A prompt is tuned on `per_label` rows of each label, or on `2 * per_label` rows of a text-to-text task. Equally many
    of the other training rows are held back for validation; if there are none, a quarter of the tuning rows is. There
    is no early stopping; the prompt with the best validation is kept, which may be the start.
    """

    prompt_length: int = 16
    per_label: int = 16
    hyperparameters: Hyperparameters = DEFAULTS


def tune_prompts(
    backbone: Backbone,
    tasks: Sequence[TaskDataset],
    output: Path,
    options: PromptOptions,
    *,
    start: Subspace | None = None,
    batch_tasks: int = 8,
    on_step: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Tune one prompt for each task; return the report.

    Args:
        backbone: the frozen model.
        tasks: of kinds that the backbone can answer; the report notes tasks with fewer rows than requested.
        output: the file of prompts by task, `….safetensors`; the report is `….json` beside it.
        options: the same for all tasks.
        start: all prompts start at the prompt of this subspace's zero vector, of its length and where it stands. If
            None, all start at the same words, drawn by the seed.
        batch_tasks: most tasks that are tuned together; it changes the numbers by rounding only.
        on_step: called after every step with optimizer steps done, steps in all, and tasks done.

    Raises:
        CheckpointError: the output has the prompts of another run, or another process uses it.
        DatasetError: a task cannot be tuned on; the message names it.
        SubspaceMismatchError: `start` belongs to another backbone.
    """
    if start is not None:
        backbone = start.placed(backbone)
        options = replace(options, prompt_length=start.decoder.prompt_length)
    jobs = [_job(backbone, task, options) for task in tasks]
    with hold_lock(output):
        return _tune(backbone, jobs, output, options, start, row_notes(tasks), batch_tasks, on_step)


def _tune(
    backbone: Backbone,
    jobs: Sequence[TuningJob],
    output: Path,
    options: PromptOptions,
    start: Subspace | None,
    notes: Sequence[str],
    batch_tasks: int,
    on_step: Callable[[int, int, int], None] | None,
) -> dict[str, Any]:
    hyperparameters = options.hyperparameters
    report_path = _report_path(output)
    report = _begin_report(backbone, jobs, options, start, notes)
    prompts = _finished_prompts(backbone, output, report_path, report)
    waiting = [job for job in jobs if job.job_id not in prompts]
    if start is None:
        first = word_prompts(backbone, options.prompt_length, seed=hyperparameters.seed)
    else:
        first = start.zero_prompt()[None]
    engine = TuningEngine(backbone, full_prompt_space(backbone, options.prompt_length, first))

    running: dict[str, Progress] = {}
    while waiting or engine.job_ids:
        while waiting and len(engine.job_ids) < batch_tasks:
            engine.add(waiting.pop(0))
        running |= {progress.job_id: progress for progress in engine.step()}
        for name in [name for name, progress in running.items() if progress.done]:
            del running[name]
            tuned = engine.finish(name)
            prompts[name] = torch.from_numpy(tuned.head.vector).view(options.prompt_length, backbone.hidden_size)
            if not report_path.exists():
                _write_report(report_path, report)  # prompts without a report count as another run's
            report["tasks"][name] = _summary(tuned, first)
            # The report is written last, so every task that it names has a prompt.
            save_prompts(output, prompts, backbone)
            _write_report(report_path, report)
        if on_step:
            steps = len(prompts) * hyperparameters.steps + sum(progress.step for progress in running.values())
            on_step(steps, len(jobs) * hyperparameters.steps, len(prompts))
    return report


def _job(backbone: Backbone, task: TaskDataset, options: PromptOptions) -> TuningJob:
    seed = options.hyperparameters.seed
    kind: TaskKind = "classification" if backbone.family == "encoder" else infer_kind(task.train)
    if fault := fault_of_task(backbone, task, options.per_label):
        raise DatasetError(fault)
    if kind == "classification":
        chosen = rows_per_label(task.train, options.per_label, seed)
        rest = _without(task.train, chosen)
        held_back = [rest[row] for row in rows_per_label(rest, options.per_label, seed)]
    else:
        size = TEXTS_PER_LABEL * options.per_label
        order = np.random.default_rng([seed, size]).permutation(len(task.train)).tolist()
        chosen = order[:size]
        held_back = [task.train[row] for row in order[size : 2 * size]]
    examples = [task.train[row] for row in chosen]
    try:
        check_unified(examples, held_back, kind)
    except DatasetError as error:
        raise DatasetError(f"task {task.name!r}: {error.message}") from None
    return TuningJob(task.name, examples, kind, held_back or None, options.hyperparameters, early_stopping=False)


def _without(examples: Sequence[Example], rows: Sequence[int]) -> list[Example]:
    excluded = set(rows)
    return [example for row, example in enumerate(examples) if row not in excluded]


def _report_path(output: Path) -> Path:
    if output.suffix != ".safetensors":
        raise CheckpointError(f"{output}: the file of prompts must be named ….safetensors; its report is ….json")
    return output.with_suffix(".json")


def _begin_report(
    backbone: Backbone,
    jobs: Sequence[TuningJob],
    options: PromptOptions,
    start: Subspace | None,
    row_notes: Sequence[str],
) -> dict[str, Any]:
    identity = backbone_metadata(backbone)
    rows = [(job.job_id, job.kind, job.examples, job.validation_examples) for job in jobs]
    parts = [REVISION, sorted(asdict(options).items()), identity["weights_sha256"], rows]
    described = repr(tuple(parts if start is None else [*parts, start.id]))
    run = hashlib.sha256(described.encode()).hexdigest()
    notes = [*row_notes, *(note for job in jobs if (note := _too_few(job, options.per_label)))]
    report = {"backbone": identity, "options": asdict(options), "run": run, "notes": notes, "tasks": {}}
    return report if start is None else report | {"start": start.id}


def _too_few(job: TuningJob, per_label: int) -> str | None:
    """Return the report's note on a task that has fewer rows than requested; None if it has enough."""
    lacking = rows_lacking(job.examples, job.kind, per_label)
    if lacking is None:
        return None
    available, requested, rows = lacking
    return f"{job.job_id}: tuned on all {available} {rows}, fewer than the {requested} requested"


def _finished_prompts(backbone: Backbone, output: Path, report_path: Path, report: dict[str, Any]) -> dict[str, Tensor]:
    """Return the prompts of an earlier run, and add its entries on them to `report`."""
    if not output.exists() and not report_path.exists():
        return {}
    try:
        earlier = json.loads(report_path.read_text(encoding="utf-8"))
        same, tasks = earlier["run"] == report["run"], dict(earlier["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        same, tasks = False, {}
    if not same:
        raise CheckpointError(
            f"{output} or {report_path} belongs to a run with other tasks or options: remove both, or choose another "
            "name"
        )
    prompts = read_prompts(output, backbone) if output.exists() else {}
    report["tasks"] = {name: entry for name, entry in tasks.items() if name in prompts}
    return {name: prompt for name, prompt in prompts.items() if name in tasks}


def _summary(tuned: AdaptedTask, start: Tensor) -> dict[str, Any]:
    return {**{name: tuned.metrics[name] for name in REPORTED_METRICS}, "moved": tuned.moved_from(start.numpy())}


def _write_report(path: Path, report: dict[str, Any]) -> None:
    with replace_atomically(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
