"""Tuning on an encoder: what it computes, when it stops, and the scores that it reports."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.errors import DatasetError
from ipt.readout.embeddings import PROMPTED_SHARE
from ipt.tuning.encoder_loop import EncoderLoop
from ipt.tuning.encoder_rows import VALIDATION_ROWS
from ipt.tuning.losses import RIDGE_LABEL_SMOOTHING
from ipt.tuning.optimizer import CLIP_NORM, scheduled_rate
from ipt.tuning.work_runner import WorkRunner
from ipt.tuning.work_units import NO_PROMPT, Forward, Work
from tests.reference import ist
from tests.support.datasets import BILLING, sentiment, topics
from tests.support.tuning import job, run

pytestmark = pytest.mark.usefixtures("keep_tuned")


def test_a_job_stops_early_if_validations_no_longer_improve(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    remaining_losses = {"stale": [0.9, 0.9, 0.8, 0.9, 0.8, 0.1], "better": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]}

    def scripted(self: EncoderLoop, vectors: torch.Tensor) -> Iterator[Work]:
        yield from ()
        return [remaining_losses[self.job.job_id].pop(0)]

    monkeypatch.setattr(EncoderLoop, "validation_losses", scripted)
    tasks = run(engine, [job(name, sentiment(), steps=50) for name in remaining_losses])
    # Validation runs before the first step and after each tenth; the fourth and fifth one of "stale" bring no gain.
    assert {name: task.metrics["steps_run"] for name, task in tasks.items()} == {"stale": 40, "better": 50}
    assert {name: task.metrics["best_step"] for name, task in tasks.items()} == {"stale": 20, "better": 50}


def test_texts_are_tokenized_once(engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    tokenize = EncoderBackbone.tokenize

    def count(self: EncoderBackbone, texts: Any, max_tokens: int | None = None) -> list[list[int]]:
        calls.append(len(texts))
        return tokenize(self, texts, max_tokens)

    monkeypatch.setattr(EncoderBackbone, "tokenize", count)
    run(engine, [job("one", sentiment())])
    assert calls == [len(sentiment()) + 2], "the examples and the names of the two labels"


def test_no_text_is_read_twice_with_the_same_prompt(engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[bytes, tuple[int, ...]]] = []
    forward = WorkRunner.forward

    def record(self: WorkRunner, works: list[Forward]) -> list[torch.Tensor]:
        for work in works:
            vectors = [b"" if lane == NO_PROMPT else work.vectors[lane].numpy().tobytes() for lane in work.lanes]
            read.extend(zip(vectors, map(tuple, work.inputs), strict=True))
        return forward(self, works)

    monkeypatch.setattr(WorkRunner, "forward", record)
    run(engine, [job("one", topics(), steps=8)])
    assert max(Counter(read).values()) == 1


def test_the_batched_run_equals_a_plain_loop(engine: ipt.TuningEngine) -> None:
    """Compared with torch's AdamW, one row at a time, with each row actually left out (tests/reference/ist.py)."""
    backbone = engine.backbone
    assert isinstance(backbone, EncoderBackbone)
    tuning_job = job("reference", topics(), steps=6, learning_rate=0.05)
    loop = EncoderLoop(tuning_job, engine.subspace, backbone)
    engine.add(tuning_job)
    while engine.step()[0].phase == "preparing":
        pass
    state = engine._jobs["reference"].loop.state
    assert state is not None
    start = state.best_vectors[0].clone()
    lane = 1
    drawn = [loop.rows.draw(lane, loop.rng(lane, step), 8) for step in range(6)]
    rows = [([loop.rows.token_ids[row] for row in drawn_rows], classes.tolist()) for drawn_rows, classes in drawn]
    expected = ist.tune(
        start,
        rows,
        lambda ids, prompt: backbone.embed([ids], None if prompt is None else prompt[None])[0],
        lambda vector: engine.subspace.decoder(vector[None])[0],
        ridge=loop.ridge,
        scale=loop.scale,
        share=PROMPTED_SHARE,
        smoothing=RIDGE_LABEL_SMOOTHING,
        rates=[scheduled_rate(0.05, step, 6) for step in range(6)],
        clip=CLIP_NORM,
    )
    while state.lanes.step < 6 and engine.job_ids:
        engine.step()
    torch.testing.assert_close(state.lanes.vectors[lane], expected, rtol=0.0, atol=2e-4)
    assert not torch.allclose(expected, start, atol=1e-2), "the vector must move, or this test shows nothing"


def test_every_label_takes_part_in_a_validation(engine: ipt.TuningEngine) -> None:
    examples = [ipt.Example(f"good {n} {turn}", f"label {n}") for turn in range(20) for n in range(20)] + [
        ipt.Example(f"bad {n} {turn}", f"rare {n}") for turn in range(4) for n in range(60)
    ]
    assert isinstance(engine.backbone, EncoderBackbone)
    rows = EncoderLoop(job("many", examples), engine.subspace, engine.backbone).rows
    assert len(rows.probe) == VALIDATION_ROWS < len(rows.examples)
    assert set(rows.classes[rows.probe].tolist()) == set(range(80))


def test_tuning_lowers_the_loss_and_reports_what_it_measured(engine: ipt.TuningEngine) -> None:
    losses: list[float] = []
    engine.add(
        job("job", sentiment(3), steps=24, batch_size=512, learning_rate=0.1),  # all rows in every step
        on_step=lambda progress: losses.append(progress.loss) if progress.loss is not None else None,
    )
    while not engine.step()[0].done:
        pass
    task = engine.finish("job")
    assert losses[-1] < 0.98 * losses[0]
    assert task.metrics["held_back"] == len(sentiment(3)), "each example once"
    assert task.head.vector.dtype == np.float32
    assert {"score", "start_score", "baseline_score", "steps_run", "seconds"} <= set(task.metrics)


def test_each_example_is_measured_by_a_lane_that_was_not_tuned_on_it(engine: ipt.TuningEngine) -> None:
    assert isinstance(engine.backbone, EncoderBackbone)
    loop = EncoderLoop(job("job", topics()), engine.subspace, engine.backbone)
    for lane, split in enumerate(loop.rows.splits):
        drawn = {row for step in range(50) for row in loop.rows.draw(lane, loop.rng(lane, step), 8)[0].tolist()}
        assert drawn == set(split.fitted)
        assert not drawn & set(split.measured)
    assert sorted(loop.rows.measured) == list(range(len(topics())))


def test_the_held_out_logits_are_those_of_the_score(engine: ipt.TuningEngine) -> None:
    examples, validation = sentiment(), topics()[:7]
    validation = [replace(example, output="positive") for example in validation]
    jobs = [job("out_of_fold", examples), replace(job("held_back", examples), validation_examples=validation)]
    for name, task in run(engine, jobs).items():
        assert task.held_out is not None
        rows = [*examples, *validation]
        measured = [rows[row].output for row in task.held_out.rows]
        answers = [task.head.labels[c] for c in task.held_out.logits.argmax(axis=1)]
        right = [answer == output for answer, output in zip(answers, measured, strict=True)]
        assert np.mean(right) == task.metrics["score"]
        expected = range(len(examples)) if name == "out_of_fold" else range(len(examples), len(rows))
        assert sorted(task.held_out.rows) == list(expected)


def test_texts_of_no_label_are_fitted_by_the_scope_only(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    examples = sentiment()
    outside = [ipt.Example(text, "Out-of-scope") for text in BILLING]
    options = ipt.Hyperparameters(steps=2)
    plain = ipt.adapt(encoder, subspace, examples, hyperparameters=options)
    aware = ipt.adapt(encoder, subspace, [*outside, *examples], hyperparameters=options)
    assert aware.head.labels == plain.head.labels
    np.testing.assert_allclose(aware.head.vector, plain.head.vector, atol=1e-5)
    assert aware.held_out is not None
    assert min(aware.held_out.rows) == len(outside), "rows are numbered as they were sent"
    predictor = ipt.Predictor(encoder, subspace)
    of_plain, of_aware = (predictor.predict([(task.head, text) for text in BILLING]) for task in (plain, aware))
    sums = [sum(prediction.in_scope or 0.0 for prediction in rows) for rows in (of_plain, of_aware)]
    assert sums[1] != pytest.approx(sums[0], abs=0.01)
    with pytest.raises(DatasetError, match="at least 2 labels besides, got 1"):
        ipt.adapt(encoder, subspace, [*outside, *examples[:5]])


def test_near_duplicates_are_measured_by_a_lane_that_saw_none_of_them(engine: ipt.TuningEngine) -> None:
    spellings = [str.upper, str.title, "  {}!".format, "{} ...".format]
    examples = [replace(example, input=spell(example.input)) for example in topics() for spell in spellings]
    assert isinstance(engine.backbone, EncoderBackbone)
    rows = EncoderLoop(job("job", examples), engine.subspace, engine.backbone).rows
    assert sorted(rows.measured) == list(range(len(examples)))
    for split in rows.splits:
        measured = {rows.groups[row] for row in split.measured}
        assert {rows.classes[row].item() for row in split.measured} == {0, 1, 2}, "folds are stratified"
        assert not measured & {rows.groups[row] for row in split.fitted}
        assert not measured & {rows.groups[row] for of_class in split.tuned_on.values() for row in of_class}


def test_texts_of_the_same_tokens_are_measured_by_a_lane_that_saw_none_of_them(engine: ipt.TuningEngine) -> None:
    endings = ["", " 😀", " 😡", " 👍"]
    examples = [replace(example, input=example.input + ending) for example in topics() for ending in endings[1:]]
    assert isinstance(engine.backbone, EncoderBackbone)
    rows = EncoderLoop(job("job", examples), engine.subspace, engine.backbone).rows
    assert len(set(rows.groups)) == len(topics())
    for split in rows.splits:
        fitted = {tuple(rows.token_ids[row]) for row in split.fitted}
        assert not fitted & {tuple(rows.token_ids[row]) for row in split.measured}
    validation = [replace(examples[0], input=examples[0].input.replace("😀", "🎉"))]
    seen = replace(job("job", examples), validation_examples=validation)
    assert EncoderLoop(seen, engine.subspace, engine.backbone).rows.score_source == "out_of_fold"


def test_a_label_with_one_text_is_named_as_not_measured(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    steps = ipt.Hyperparameters(steps=2)
    once = [ipt.Example("Goodbye", "other"), ipt.Example("goodbye!", "other")]
    task = ipt.adapt(encoder, subspace, [*sentiment(), *once], hyperparameters=steps)
    assert (task.metrics["held_back"], task.metrics["unmeasured_labels"]) == (len(sentiment()), 1)
    assert any("the score says nothing about 'other'" in warning for warning in task.warnings)
    nothing = ipt.adapt(encoder, subspace, [*once, *(ipt.Example("Hi", "a"),) * 2], hyperparameters=steps)
    assert (nothing.metrics["score"], nothing.metrics["score_source"]) == (None, "none")
    assert "nothing was measured" in nothing.warnings[-1]


def test_texts_are_tuned_on_as_they_are_predicted(engine: ipt.TuningEngine) -> None:
    long = [replace(example, input=f"{example.input} " * 400) for example in sentiment()]
    backbone = engine.backbone
    assert isinstance(backbone, EncoderBackbone)
    rows = EncoderLoop(job("job", long), engine.subspace, backbone).rows
    predicted = backbone.tokenize_flagged([example.input for example in long], engine.subspace.prompt_length)
    assert rows.token_ids[: len(long)] == [ids for ids, _ in predicted]
    assert max(map(len, rows.token_ids)) == backbone.max_tokens


def test_validation_examples_measure_one_lane_that_is_tuned_on_all_examples(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    steps = ipt.Hyperparameters(steps=3)
    validation = [replace(example, input=f"{example.input} too") for example in topics()[:4]]
    task = ipt.adapt(
        encoder, subspace, topics(), validation_examples=[*validation, *topics()[:2]], hyperparameters=steps
    )
    assert (task.metrics["score_source"], task.metrics["held_back"]) == ("held_back", 4)
    again = ipt.adapt(encoder, subspace, topics(), validation_examples=topics(), hyperparameters=steps)
    assert (again.metrics["score_source"], again.metrics["held_back"]) == ("out_of_fold", len(topics()))


def test_two_examples_of_each_label_are_enough(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    few = [ipt.Example(t, label) for t, label in (("good", "a"), ("great", "a"), ("bad", "b"), ("awful", "b"))]
    task = ipt.adapt(encoder, subspace, few, hyperparameters=ipt.Hyperparameters(steps=3))
    assert (task.metrics["score_source"], task.metrics["held_back"]) == ("out_of_fold", 4)
    assert "measured on only 4 held-back examples" in task.warnings[-1]


def test_examples_with_doubtful_labels_are_warned_of(
    encoder: EncoderBackbone, subspace: ipt.Subspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny backbone knows no language, so the limits of doubt are lowered."""
    monkeypatch.setattr("ipt.tuning.quality_warnings.SURE", 0.0)
    monkeypatch.setattr("ipt.readout.label_errors.NEAR_DUPLICATE_COSINE", -1.0)
    task = ipt.adapt(encoder, subspace, sentiment(), hyperparameters=ipt.Hyperparameters(steps=0))
    [suspects] = [warning for warning in task.warnings if "perhaps a wrong label" in warning]
    assert re.search(r"examples\[\d+\] \(rather '(positive|negative)'\)", suspects)
    [pairs] = [warning for warning in task.warnings if "hardly differ for the backbone" in warning]
    first, second = map(int, re.findall(r"examples\[(\d+)\]", pairs)[:2])
    assert sentiment()[first].output != sentiment()[second].output


def test_random_labels_cause_a_warning(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    """The same texts have both labels, so nothing can beat the baseline."""
    texts = [example.input for example in sentiment()]
    noise = [ipt.Example(text, label) for text in texts for label in ("heads", "tails")]
    task = ipt.adapt(encoder, subspace, noise, hyperparameters=ipt.Hyperparameters(steps=4))
    metrics: dict[str, Any] = task.metrics
    score, start, baseline = (float(metrics[name]) for name in ("score", "start_score", "baseline_score"))
    warned = any("the tuned task is" in warning for warning in task.warnings)
    assert warned == (score < baseline or score == baseline <= start)
