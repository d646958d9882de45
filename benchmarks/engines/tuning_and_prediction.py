"""The rows of the engine table: each function measures a backbone for some rounds and returns a figure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ipt
from benchmarks.engines.backbones import Measured, few_shot, tasks, texts
from benchmarks.engines.peft_peer import PeftPeer
from benchmarks.engines.timing import Ratio, faster, in_turn
from benchmarks.report import Figure
from ipt.backbones.batching import buckets_for, right_padded
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import TextBackbone, TokenIds

JOBS = 16
PER_LABEL, SHIPPED_PER_LABEL = 3, 2
PEFT_STEPS = 2
ROWS = 6 * PER_LABEL
BATCH = 64
REQUESTS = 256
TABLES = (1, 1000, 1_000_000)


def fused(measured: Measured, rounds: int) -> Figure:
    """Compare sixteen adaptations in one engine with PEFT, one after another."""
    device = measured.backbone.device
    jobs = [few_shot(PER_LABEL, seed) for seed in range(JOBS)]
    engine = descending(measured, jobs)
    peer = PeftPeer(measured, sorted({example.output for example in jobs[0]}))
    batches = [peer.batch(job) for job in jobs]
    optimizer = peer.optimizer()
    steps = 1 if device.type == "cpu" else 3

    def ours() -> None:
        for _ in range(steps):
            engine.step()

    def peers() -> None:
        for batch in batches:
            for _ in range(steps):
                peer.step(batch, optimizer)

    ratio = faster(in_turn({"ours": ours, "peers": peers}, rounds, device), "ours", "peers")
    goal = 1.0 if device.type == "cpu" else 8.0 if measured.name == "MiniLM" else 4.0
    how = (
        f"{JOBS} jobs of {ROWS} tickets each ({PER_LABEL} per label), {steps} gradient steps of all {ROWS} rows,"
        f" prompts of {measured.subspace.prompt_length} positions, {_dtype(measured)} on both sides. Ours:"
        " `TuningEngine.step` with all jobs. PEFT: one job after another, rows tokenized and padded beforehand, no"
        " dropout. Only the steps are timed on both sides, without validation and without fitting a readout."
    )
    return _figure(f"{JOBS} {measured.name} adaptations fused, against PEFT", ratio, goal, how, rounds)


def as_shipped(measured: Measured, rounds: int) -> Figure:
    """Compare sixteen adaptations from examples to tasks with all requested steps of PEFT."""
    device = measured.backbone.device
    jobs = [few_shot(SHIPPED_PER_LABEL, seed) for seed in range(JOBS)]
    peer = PeftPeer(measured, sorted({example.output for example in jobs[0]}))
    batches = [peer.batch(job) for job in jobs]
    optimizer = peer.optimizer()
    hyperparameters = ipt.Hyperparameters()
    steps_run: list[int] = []

    def ours() -> None:
        engine = ipt.TuningEngine(measured.backbone, measured.subspace)
        for number, examples in enumerate(jobs):
            engine.add(ipt.TuningJob(str(number), examples, "classification", None, hyperparameters))
        while not all(report.done for report in engine.step()):
            pass
        steps_run.extend(int(engine.finish(name).metrics["steps_run"] or 0) for name in engine.job_ids)

    def peers() -> None:
        for batch in batches:
            for _ in range(PEFT_STEPS):
                peer.step(batch, optimizer)

    # A round takes minutes, and the previous row has warmed up everything.
    seconds = in_turn({"ours": ours, "peers": peers}, rounds, device, warm_up=0)
    factor = hyperparameters.steps / PEFT_STEPS
    peer_seconds = [factor * measured_seconds for measured_seconds in seconds["peers"]]
    ratio = faster({"ours": seconds["ours"], "peers": peer_seconds}, "ours", "peers")
    how = (
        f"{JOBS} jobs of {len(jobs[0])} tickets each ({SHIPPED_PER_LABEL} per label), {hyperparameters.steps} steps of"
        " all rows requested for each, the same prompts. Ours: a `TuningEngine` with all jobs, from examples to tasks"
        " with readouts: comparison of the initial vectors, steps, validations and metrics, with early stopping"
        f" (after {np.mean(steps_run):.0f} steps on average). PEFT: one job after another, only the"
        f" {hyperparameters.steps} steps; {PEFT_STEPS} steps of each job are timed and multiplied by {factor:g}."
    )
    return _figure(f"{JOBS} {measured.name} adaptations as shipped, against PEFT", ratio, 1.6, how, rounds)


def tuning_step(measured: Measured, rounds: int) -> Figure:
    """Compare a step of the engine with forward and backward of the bare backbone on the same positions."""
    device = measured.backbone.device
    jobs = [few_shot(PER_LABEL, seed) for seed in range(4 if device.type == "cpu" else JOBS)]
    engine = descending(measured, jobs)
    limit = bare_step(measured, list(chain(*jobs)))
    steps = 1 if device.type == "cpu" else 5

    def ours() -> None:
        for _ in range(steps):
            engine.step()

    def bare() -> None:
        for _ in range(steps):
            limit()

    ratio = faster(in_turn({"ours": ours, "bare": bare}, rounds, device), "ours", "bare")
    how = (
        f"`TuningEngine.step` of {len(jobs)} jobs of {ROWS} rows. The limit: only the forward pass of the bare"
        " transformers model on the same number of positions (prompt and text, in the same length buckets, already on"
        " the device) and the gradient with respect to these positions."
    )
    return _figure(f"{measured.name} tuning step, of its limit", ratio, 0.9, how, rounds)


def distinct_tasks(measured: Measured, rounds: int) -> Figure:
    """Compare a batch in which each row has its own task with the same rows of one task."""
    predictor = ipt.Predictor(measured.backbone, measured.subspace)
    bound, inputs = tasks(measured, BATCH), texts(BATCH)
    many, one = list(zip(bound, inputs, strict=True)), [(bound[0], text) for text in inputs]
    ways: dict[str, Callable[[], object]] = {
        "many": lambda: predictor.predict(many),
        "one": lambda: predictor.predict(one),
    }
    ratio = faster(_in_turn_warm(ways, 3 * rounds, measured.backbone.device), "many", "one")
    how = f"`Predictor.predict` with {BATCH} texts: of {BATCH} tasks of 6 labels, and of one of these tasks."
    return _figure(f"{BATCH} texts of {BATCH} tasks, against one task", ratio, 0.98, how, 3 * rounds)


def prediction(measured: Measured, rounds: int) -> Figure:
    """Compare prediction, from text to answer, with the bare backbone on the same positions."""
    backbone = measured.backbone
    assert isinstance(backbone, EncoderBackbone)
    predictor = ipt.Predictor(backbone, measured.subspace)
    bound, inputs = tasks(measured, BATCH), texts(BATCH)
    rows = list(zip(bound, inputs, strict=True))
    limit = bare_predictions(measured, inputs)
    ways: dict[str, Callable[[], object]] = {"ours": lambda: predictor.predict(rows), "bare": limit}
    ratio = faster(_in_turn_warm(ways, rounds, backbone.device), "ours", "bare")
    how = (
        f"`Predictor.predict`, from {BATCH} texts of {BATCH} tasks to label scores. The backbone reads each text twice,"
        " with and without the prompt, since the readout uses both embeddings. The limit: the bare transformers model"
        " on the same positions of both passes, tokenized, in the same length buckets and on the device beforehand."
    )
    return _figure("prediction, of its limit", ratio, 0.9, how, rounds)


def set_adapter(measured: Measured, rounds: int) -> Figure:
    """Compare batched requests to many tasks with PEFT's adapters, one by one."""
    backbone = measured.backbone
    predictor = ipt.Predictor(backbone, measured.subspace)
    inputs = texts(REQUESTS)
    rows = list(zip(tasks(measured, REQUESTS), inputs, strict=True))
    peer = PeftPeer(measured, [f"label {number}" for number in range(6)])
    names = ["default", *(f"task {number}" for number in range(1, REQUESTS))]
    for name in names[1:]:
        peer.model.add_adapter(name, peer.config())
    peer.model.eval()
    batches = [peer.batch([ipt.Example(text, "label 0")]) for text in inputs]

    @torch.inference_mode()
    def peers() -> None:
        for name, batch in zip(names, batches, strict=True):
            peer.model.set_adapter(name, inference_mode=True)
            peer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.cpu()

    def ours() -> None:
        for start in range(0, REQUESTS, BATCH):
            predictor.predict(rows[start : start + BATCH])

    ratio = faster(in_turn({"ours": ours, "peers": peers}, rounds, backbone.device), "ours", "peers")
    how = (
        f"{REQUESTS} texts, each of a different task. Ours: `Predictor.predict`, {BATCH} at a time, each text read"
        f" twice. PEFT: {REQUESTS} prompt-tuning adapters of {measured.subspace.prompt_length} positions in one model,"
        " `set_adapter` and a forward pass for each request, each text tokenized beforehand and read once."
    )
    goal = 2.0 if backbone.device.type == "cpu" else 20.0
    return _figure(f"{REQUESTS} requests of {REQUESTS} tasks, against PEFT", ratio, goal, how, rounds)


def random_tasks(measured: Measured, rounds: int) -> Figure:
    """Compare texts of tasks drawn from few tasks with texts of tasks drawn from very many."""
    predictor = ipt.Predictor(measured.backbone, measured.subspace)
    inputs, rng = texts(BATCH), np.random.default_rng(0)
    [template] = [task.head for task in tasks(measured, 1)]
    before = _resident_bytes()
    vectors = rng.standard_normal((max(TABLES), measured.subspace.intrinsic_dim), dtype=np.float32)
    vectors *= 0.1
    grown = _resident_bytes() - before

    def predict(out_of: int) -> None:
        drawn = rng.integers(out_of, size=BATCH)
        predictor.predict([(replace(template, vector=vectors[n]), text) for n, text in zip(drawn, inputs, strict=True)])

    ways: dict[str, Callable[[], object]] = {str(out_of): partial(predict, out_of) for out_of in TABLES}
    seconds = _in_turn_warm(ways, 2 * rounds, measured.backbone.device)
    ratios = [faster(seconds, str(out_of), "1") for out_of in TABLES[1:]]
    gigabytes = grown / 1e9
    how = (
        f"`Predictor.predict` with {BATCH} texts, each of a task drawn at random from {TABLES[0]}, from {TABLES[1]:,}"
        f" and from {TABLES[2]:,} tasks, whose vectors are in memory. Each time a task is checked and bound, and its"
        " prompt is decoded or comes from the cache; all tasks share one readout. The memory is the growth of the"
        f' process for {max(TABLES):,} vectors; the same with tasks in the database is "any task predicted" under'
        f" Scale. {2 * rounds} alternating rounds: median, minimum and maximum."
    )
    return Figure(
        "texts of random tasks out of 10³ and 10⁶, against 1",
        f"{ratios[0]}; {ratios[1]}; {gigabytes:.2f} GB",
        "≥ 0.98×, ≤ 1.2 GB",
        min(ratio.median for ratio in ratios) >= 0.98 and gigabytes <= 1.2,
        how,
    )


def descending(measured: Measured, jobs: Sequence[list[ipt.Example]]) -> ipt.TuningEngine:
    """Return an engine whose next thousands of steps are gradient steps of all rows of all jobs."""
    engine = ipt.TuningEngine(measured.backbone, measured.subspace)
    classifies = isinstance(measured.backbone, EncoderBackbone)
    hyperparameters = ipt.Hyperparameters(steps=10_000, batch_size=ROWS)
    for number, examples in enumerate(jobs):
        # A text task validates on one example, so that validation takes almost no time.
        job = ipt.TuningJob(
            str(number),
            examples,
            "classification" if classifies else "text2text",
            None if classifies else examples[:1],
            hyperparameters,
        )
        engine.add(job)
    while any(report.step == 0 for report in engine.step()):
        pass
    return engine


def bare_step(measured: Measured, examples: Sequence[ipt.Example]) -> Callable[[], None]:
    """Return forward and backward of the frozen model, to its input, on the positions of the engine's rows."""
    backbone, model = measured.backbone, measured.bare
    if backbone.family == "causal":
        model = model.base_model  # the engine applies the head at few positions
    prompt_length = measured.subspace.prompt_length
    rows = backbone.tokenize([example.input for example in examples])
    targets = None
    if isinstance(backbone, TextBackbone):
        targets = backbone.tokenize_targets([example.output for example in examples])
    without_cache = {} if isinstance(backbone, EncoderBackbone) else {"use_cache": False}
    passes = []
    lengths = [prompt_length + len(row) + (len(targets[number]) if targets else 0) for number, row in enumerate(rows)]
    for bucket in buckets_for(lengths, backbone.device, backbone.hidden_size):
        inner = [rows[row] for row in bucket]
        if targets and backbone.family == "causal":
            inner = [rows[row] + targets[row][:-1] for row in bucket]
        embeds, mask = _behind_prompts(measured, inner)
        arguments = {} if backbone.family == "causal" else {"attention_mask": mask}
        if targets and backbone.family == "seq2seq":
            read, _ = right_padded([targets[row] for row in bucket])
            arguments["decoder_input_ids"] = read.to(backbone.device)
        passes.append((embeds.requires_grad_(True), arguments))

    def step() -> None:
        for embeds, arguments in passes:
            answer = model(inputs_embeds=embeds, **arguments, **without_cache)
            last: Tensor = answer.logits if "logits" in answer else answer.last_hidden_state
            torch.autograd.grad(last, embeds, torch.ones_like(last))

    return step


def bare_predictions(measured: Measured, inputs: Sequence[str]) -> Callable[[], None]:
    """Return the forward pass of the frozen model on the positions that the engine reads for these texts."""
    backbone, model = measured.backbone, measured.bare
    rows = backbone.tokenize(inputs)
    passes: list[dict[str, Tensor | None]] = []
    for prompt_length in (measured.subspace.prompt_length, 0):
        lengths = [prompt_length + len(row) for row in rows]
        for bucket in buckets_for(lengths, backbone.device, backbone.hidden_size):
            inner = [rows[row] for row in bucket]
            embeds, mask = _behind_prompts(measured, inner, prompt_length)
            passes.append({"inputs_embeds": embeds, "attention_mask": mask})

    @torch.inference_mode()
    def forward() -> None:
        for arguments in passes:
            model(**arguments)

    return forward


def _behind_prompts(
    measured: Measured, rows: Sequence[TokenIds], prompt_length: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return embedded rows behind prompts [B, P + T, H], and their mask, None without padding."""
    backbone = measured.backbone
    length = measured.subspace.prompt_length if prompt_length is None else prompt_length
    ids, lengths = right_padded(rows)
    ids = ids.to(backbone.device)
    embeds = backbone.model.get_input_embeddings()(ids).detach()
    prompts = 0.1 * torch.randn(len(rows), length, embeds.shape[2], device=embeds.device, dtype=embeds.dtype)
    present = torch.arange(length + ids.shape[1]) < length + lengths[:, None]
    if isinstance(backbone, EncoderBackbone):  # a form that transformers takes without conversion
        mask = None if bool(present.all()) else backbone._mask(present.to(backbone.device), present.shape[1])  # noqa: SLF001 - the same mask on both sides
        return torch.cat([prompts, embeds], dim=1), mask
    mask = None if bool(present.all()) else present.to(backbone.device, torch.long)
    return torch.cat([prompts, embeds], dim=1), mask


def _in_turn_warm(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Run `in_turn` with enough warm-up for a GPU to capture the graphs of its passes."""
    return in_turn(ways, rounds, device, warm_up=1 if device.type == "cpu" else 6)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _dtype(measured: Measured) -> str:
    return str(measured.backbone.dtype).removeprefix("torch.")


def _figure(what: str, ratio: Ratio, goal: float, how: str, rounds: int) -> Figure:
    how = f"{how} {rounds} alternating rounds: median, minimum and maximum."
    return Figure(what, str(ratio), f"≥ {goal:g}×", ratio.median >= goal, how)
