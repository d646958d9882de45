"""Tuning on backbones that write text: fused runs equal solo runs, and both equal a plain loop."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ipt
from ipt.backbones.seq2seq import Seq2SeqBackbone
from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.subspace.modules import SubspaceDecoder
from ipt.tuning.optimizer import CLIP_NORM, scheduled
from ipt.tuning.text_program import TextProgram
from ipt.tuning.text_scores import mean_scores
from tests.support.datasets import sentiment, topics
from tests.support.tiny import build_tiny_causal, build_tiny_seq2seq

PAIRS = [
    ipt.Example(f"{verb} {thing}", f"{thing} please")
    for verb in ("play", "send", "pay")
    for thing in ("music", "mail", "the bill", "my song")
]


pytestmark = pytest.mark.usefixtures("keep_tuned")


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptedTextBackbone:
    folder: Path = tmp_path_factory.mktemp("text") / request.param
    built = build_tiny_seq2seq(folder, "t5") if request.param == "t5" else build_tiny_causal(folder, "gpt2")
    backbone = ipt.load_backbone(str(built), device="cpu")
    assert isinstance(backbone, PromptedTextBackbone)
    return backbone


@pytest.fixture(scope="module")
def engine(backbone: PromptedTextBackbone, tmp_path_factory: pytest.TempPathFactory) -> ipt.TuningEngine:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
        starts = torch.cat([torch.zeros(1, 8), 0.5 * torch.randn(2, 8)])
    subspace = ipt.save_subspace(tmp_path_factory.mktemp("subspace"), decoder, backbone, initial_vectors=starts)
    return ipt.TuningEngine(backbone, subspace)


def job(job_id: str, examples: list[ipt.Example], kind: ipt.TaskKind, **hyperparameters: object) -> ipt.TuningJob:
    asked: dict[str, Any] = {"steps": 5, "batch_size": 6, "learning_rate": 0.05, **hyperparameters}
    return ipt.TuningJob(job_id, examples, kind, hyperparameters=ipt.Hyperparameters(**asked))


def run(engine: ipt.TuningEngine, jobs: Iterable[ipt.TuningJob]) -> dict[str, ipt.AdaptedTask]:
    for each in jobs:
        engine.add(each)
    finished = {}
    while engine.job_ids:
        for progress in engine.step():
            if progress.done:
                finished[progress.job_id] = engine.finish(progress.job_id)
    return finished


def test_a_fused_run_equals_the_same_jobs_alone(engine: ipt.TuningEngine) -> None:
    jobs = [
        job("texts", PAIRS, "text2text", seed=1),
        job("labels", topics(), "classification", learning_rate=0.02, steps=3, seed=2),
        job("restarts", sentiment(), "classification", restarts=2, seed=3),
    ]
    alone = {each.job_id: run(engine, [each])[each.job_id] for each in jobs}
    fused = run(engine, jobs)
    for job_id, task in alone.items():
        np.testing.assert_allclose(fused[job_id].head.vector, task.head.vector, rtol=0.0, atol=5e-4)
        assert fused[job_id].metrics["score"] == task.metrics["score"]
        assert fused[job_id].head.labels == task.head.labels


def test_the_batched_run_equals_a_plain_loop(
    engine: ipt.TuningEngine, backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against torch's AdamW, one row at a time, on the stock model with the prompt put in by hand."""
    monkeypatch.setattr("ipt.tuning.program.Program.patience", 99)
    asked = job("reference", PAIRS, "text2text", batch_size=4, steps=4)
    program = TextProgram(asked, engine.subspace, backbone)
    engine.add(asked)
    while engine.step()[0].phase == "preparing":
        pass
    state = engine._running["reference"].program.state
    assert state is not None
    start = state.best_vectors[0].clone()

    model: Any = backbone.model
    vector = start.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([vector], lr=1.0, weight_decay=0.0)
    for step in range(4):
        prompt = engine.subspace.decoder(vector[None])
        losses = []
        for row in program.rng(0, step).permutation(len(program.train_rows))[:4]:
            source, target = program.inputs[row], program.targets[row]
            if isinstance(backbone, Seq2SeqBackbone):
                embeds = torch.cat([prompt, model.shared(torch.tensor([source]))], dim=1)
                logits = model(inputs_embeds=embeds, labels=torch.tensor([target])).logits[0]
            else:
                words = model.transformer.wte(torch.tensor([[*source, *target[:-1]]]))
                logits = model(inputs_embeds=torch.cat([prompt, words], dim=1)).logits[0, -len(target) :]
            losses.append(F.cross_entropy(logits, torch.tensor(target), label_smoothing=0.1))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_([vector], CLIP_NORM)
        optimizer.param_groups[0]["lr"] = scheduled(0.05, step, 4)
        optimizer.step()

    while state.lanes.step < 4 and engine.job_ids:
        engine.step()
    engine.remove("reference")
    torch.testing.assert_close(state.lanes.vectors[0], vector.detach(), rtol=0.0, atol=5e-4)
    assert not torch.allclose(vector, start, atol=1e-2), "a test in which nothing moves shows nothing"


def test_tuning_lowers_the_loss(engine: ipt.TuningEngine) -> None:
    engine.add(job("texts", PAIRS, "text2text", steps=12, batch_size=12, learning_rate=0.02))
    losses = []
    while not (progress := engine.step()[0]).done:
        losses.append(progress.loss)
    engine.remove("texts")
    known = [loss for loss in losses if loss is not None]
    assert min(known) < known[0]


def test_a_resumed_job_gives_the_vector_of_an_undisturbed_one(engine: ipt.TuningEngine) -> None:
    asked = job("job", PAIRS, "text2text", seed=9, restarts=2)
    undisturbed = run(engine, [asked])["job"]
    engine.add(asked)
    while engine.step()[0].step < 3:
        pass
    saved = engine.checkpoint("job")
    engine.remove("job")
    engine.add(asked, saved)
    while not engine.step()[0].done:
        pass
    np.testing.assert_allclose(engine.finish("job").head.vector, undisturbed.head.vector, rtol=0.0, atol=1e-5)


def test_a_tuned_task_answers_among_tasks_of_the_other_kind(engine: ipt.TuningEngine) -> None:
    tasks = run(engine, [job("texts", PAIRS, "text2text", steps=1), job("labels", topics(), "classification", steps=1)])
    texts, labels = (tasks[name].head for name in ("texts", "labels"))
    predictor = ipt.Predictor(engine.backbone, engine.subspace)
    rows = [(labels, "the app crashed"), (texts, "play music"), (labels, "i love it")]
    predictions = predictor.predict(rows)
    assert predictions[0].label in ("praise", "complaint", "billing")
    assert predictions[0].scores is not None
    assert sum(predictions[0].scores.values()) == pytest.approx(1.0)
    assert isinstance(predictions[1].text, str)
    for row, prediction in zip(rows, predictions, strict=True):
        (alone,) = predictor.predict([row])
        assert (alone.label, alone.text) == (prediction.label, prediction.text)


def test_scores_stand_beside_those_of_the_zero_vector_and_of_no_prompt(engine: ipt.TuningEngine) -> None:
    for kind, examples, metric in (("text2text", PAIRS, "exact_match"), ("classification", topics(), "accuracy")):
        metrics = run(engine, [job("job", examples, kind, steps=1)])["job"].metrics  # type: ignore[arg-type]
        assert metrics["score_metric"] == metric
        assert metrics["held_back"] == 3
        for name in ("score", "zero_vector_score", "baseline_score"):
            assert isinstance(metrics[name], float)
        for of in ("", "zero_vector_", "baseline_"):
            assert (f"{of}rouge_l" in metrics) == (kind == "text2text")
        if kind == "text2text":
            assert metrics["exact_match"] == metrics["score"]


def test_how_near_texts_are_is_measured_on_the_held_back_ones(
    engine: ipt.TuningEngine, backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job("job", PAIRS, "text2text", steps=1)
    program = TextProgram(asked, engine.subspace, backbone)
    wanted = [program.examples[row].output for row in program.chosen_by_rows]
    answers = ["music please", *["nothing of this"] * (len(wanted) - 1)]
    monkeypatch.setattr(backbone, "generate", lambda rows, *_, **__: answers[: len(rows)])
    metrics = run(engine, [asked])["job"].metrics
    for name, value in mean_scores(answers, wanted).items():
        assert metrics[name] == metrics[f"baseline_{name}"] == pytest.approx(value)
    assert metrics["token_f1"] > 0  # type: ignore[operator]


def test_without_enough_to_hold_back_there_is_no_score_but_a_warning(engine: ipt.TuningEngine) -> None:
    task = run(engine, [job("job", PAIRS[:3], "text2text", steps=1)])["job"]
    assert (task.metrics["score"], task.metrics["score_source"]) == (None, "none")
    assert "validation_examples" in task.warnings[0]


def test_labels_that_the_backbone_cannot_tell_apart_are_refused(engine: ipt.TuningEngine) -> None:
    examples = [ipt.Example("good", label) for label in ("Yes", "yes", "Yes", "yes")]
    with pytest.raises(ipt.DatasetError, match="'Yes' and 'yes' are the same tokens"):
        engine.add(job("job", examples, "classification"))
