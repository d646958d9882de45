"""Tuning on text backbones: fused runs equal separate runs, and both equal a plain loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ipt
from ipt.backbones.interface import Answer
from ipt.backbones.seq2seq import Seq2SeqBackbone
from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.errors import DatasetError
from ipt.readout.calibration import Calibration
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.held_out_texts import HeldOutTexts
from ipt.tuning.optimizer import CLIP_NORM, scheduled_rate
from ipt.tuning.text_loop import TextLoop
from ipt.tuning.text_scores import mean_scores
from tests.support.datasets import sentiment, topics
from tests.support.tiny import build_tiny_causal, build_tiny_seq2seq
from tests.support.tuning import finish_all, job, run, run_each_alone

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


def text_job(
    job_id: str, examples: list[ipt.Example], kind: ipt.TaskKind = "text2text", **changes: Any
) -> ipt.TuningJob:
    return job(job_id, examples, kind, **{"steps": 5, "batch_size": 6, **changes})


def test_a_fused_run_equals_the_same_jobs_alone(engine: ipt.TuningEngine) -> None:
    jobs = [
        text_job("texts", PAIRS, seed=1),
        text_job("labels", topics(), "classification", learning_rate=0.02, steps=3, seed=2),
        text_job("restarts", sentiment(), "classification", restarts=2, seed=3),
    ]
    alone = run_each_alone(engine, jobs)
    fused = run(engine, jobs)
    for job_id, task in alone.items():
        np.testing.assert_allclose(fused[job_id].head.vector, task.head.vector, rtol=0.0, atol=5e-4)
        assert fused[job_id].metrics["score"] == task.metrics["score"]
        assert fused[job_id].head.labels == task.head.labels


def test_the_batched_run_equals_a_plain_loop(
    engine: ipt.TuningEngine, backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with torch's AdamW, one row at a time, on the stock model with the prompt inserted by hand."""
    monkeypatch.setattr("ipt.tuning.tuning_loop.PATIENCE", 99)
    tuning_job = text_job("reference", PAIRS, batch_size=4, steps=4)
    loop = TextLoop(tuning_job, engine.subspace, backbone)
    engine.add(tuning_job)
    while engine.step()[0].phase == "preparing":
        pass
    state = engine._jobs["reference"].loop.state
    assert state is not None
    start = state.best_vectors[0].clone()

    model: Any = backbone.model
    vector = start.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([vector], lr=1.0, weight_decay=0.0)
    for step in range(4):
        prompt = engine.subspace.decoder(vector[None])
        losses = []
        for row in loop.rng(0, step).permutation(len(loop.train_rows))[:4]:
            source, target = loop.inputs[row], loop.targets[row]
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
        optimizer.param_groups[0]["lr"] = scheduled_rate(0.05, step, 4)
        optimizer.step()

    while state.lanes.step < 4 and engine.job_ids:
        engine.step()
    engine.remove("reference")
    torch.testing.assert_close(state.lanes.vectors[0], vector.detach(), rtol=0.0, atol=5e-4)
    assert not torch.allclose(vector, start, atol=1e-2), "the vector must move, or this test shows nothing"


def test_tuning_lowers_the_loss(engine: ipt.TuningEngine) -> None:
    engine.add(text_job("texts", PAIRS, steps=12, batch_size=12, learning_rate=0.02))
    losses = []
    while not (progress := engine.step()[0]).done:
        losses.append(progress.loss)
    engine.remove("texts")
    reported = [loss for loss in losses if loss is not None]
    assert min(reported) < reported[0]


def test_a_resumed_job_gives_the_vector_of_an_uninterrupted_one(engine: ipt.TuningEngine) -> None:
    tuning_job = text_job("job", PAIRS, seed=9, restarts=2)
    uninterrupted = run(engine, [tuning_job])["job"]
    engine.add(tuning_job)
    while engine.step()[0].step < 3:
        pass
    checkpoint = engine.checkpoint("job")
    engine.remove("job")
    engine.add(tuning_job, checkpoint)
    resumed = finish_all(engine)["job"]
    np.testing.assert_allclose(resumed.head.vector, uninterrupted.head.vector, rtol=0.0, atol=1e-5)


def test_tasks_of_both_kinds_are_predicted_in_one_batch(engine: ipt.TuningEngine) -> None:
    tasks = run(engine, [text_job("texts", PAIRS, steps=1), text_job("labels", topics(), "classification", steps=1)])
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


def test_scores_are_reported_with_those_of_the_start_and_of_no_prompt(engine: ipt.TuningEngine) -> None:
    cases: list[tuple[ipt.TaskKind, list[ipt.Example], str]] = [
        ("text2text", PAIRS, "exact_match"),
        ("classification", topics(), "accuracy"),
    ]
    for kind, examples, metric in cases:
        metrics = run(engine, [text_job("job", examples, kind, steps=1)])["job"].metrics
        assert metrics["score_metric"] == metric
        assert metrics["held_back"] == 3
        for name in ("score", "start_score", "baseline_score"):
            assert isinstance(metrics[name], float)
        for prefix in ("", "start_", "baseline_"):
            assert (f"{prefix}rouge_l" in metrics) == (kind == "text2text")
        if kind == "text2text":
            assert metrics["exact_match"] == metrics["score"]


def test_what_was_held_out_is_that_of_the_score(engine: ipt.TuningEngine) -> None:
    examples = topics()
    tasks = run(engine, [text_job("labels", examples, "classification"), text_job("texts", PAIRS)])
    held_out = tasks["labels"].held_out
    assert isinstance(held_out, HeldOutLogits)
    assert len(held_out.rows) == tasks["labels"].metrics["held_back"]
    answers = [tasks["labels"].head.labels[c] for c in held_out.logits.argmax(axis=1)]
    right = [answer == examples[row].output for answer, row in zip(answers, held_out.rows, strict=True)]
    assert np.mean(right) == pytest.approx(tasks["labels"].metrics["score"])
    texts = tasks["texts"].held_out
    assert isinstance(texts, HeldOutTexts)
    report = ipt.held_out_text_report(PAIRS, texts)
    metrics = tasks["texts"].metrics
    assert report.rows == metrics["held_back"]
    assert (report.exact_match, report.token_f1) == (metrics["exact_match"], pytest.approx(metrics["token_f1"]))
    predictor = ipt.Predictor(engine.backbone, engine.subspace)
    [written] = predictor.predict([(tasks["texts"].head, PAIRS[report.measured[0]].input)])
    assert written.text is not None
    assert written.text.startswith(texts.texts[0])
    assert ((texts.confidences > 0) & (texts.confidences < 1)).all()


def test_text_similarity_is_measured_on_the_held_back_examples(
    engine: ipt.TuningEngine, backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning_job = text_job("job", PAIRS, steps=1)
    loop = TextLoop(tuning_job, engine.subspace, backbone)
    targets = [loop.examples[row].output for row in loop.validation_rows]
    answers = ["music please", *["something else"] * (len(targets) - 1)]
    written = [Answer(text, 0.9) for text in answers]
    monkeypatch.setattr(backbone, "answer", lambda rows, *_, **__: written[: len(rows)])
    task = run(engine, [tuning_job])["job"]
    right = [answer == target for answer, target in zip(answers, targets, strict=True)]
    assert task.head.calibration == Calibration.fit([0.9] * len(right), right) != Calibration()
    metrics = task.metrics
    for name, value in mean_scores(answers, targets).items():
        assert metrics[name] == metrics[f"baseline_{name}"] == pytest.approx(value)
    token_f1 = metrics["token_f1"]
    assert isinstance(token_f1, float)
    assert token_f1 > 0


def test_without_enough_examples_to_hold_back_there_is_a_warning_instead_of_a_score(engine: ipt.TuningEngine) -> None:
    task = run(engine, [text_job("job", PAIRS[:3], steps=1)])["job"]
    assert task.held_out is None
    assert (task.metrics["score"], task.metrics["score_source"]) == (None, "none")
    assert "validation_examples" in task.warnings[0]


def test_labels_with_the_same_tokens_are_rejected(engine: ipt.TuningEngine) -> None:
    examples = [ipt.Example("good", label) for label in ("ж", "щ", "ж", "щ")]
    with pytest.raises(ipt.DatasetError, match="'ж' and 'щ' are the same tokens"):
        engine.add(text_job("job", examples, "classification"))


def test_several_labels_at_once_are_refused(engine: ipt.TuningEngine) -> None:
    rows = [ipt.Example.with_labels(f"text {row}", ["a", "b"][: row % 3]) for row in range(6)]
    with pytest.raises(DatasetError, match="not several labels at once: tune on an encoder") as refused:
        engine.add(text_job("tickets", rows, "multilabel"))
    assert refused.value.param == "kind"
