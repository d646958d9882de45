"""Tuning several labels at once on a tiny encoder."""

import random

import numpy as np
import pytest

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.errors import CheckpointError
from ipt.tuning.held_out import HeldOutLogits
from tests.support.datasets import BILLING, NEGATIVE, POSITIVE, sentiment
from tests.support.tuning import TOLERANCE, finish_all, job, run

TEXTS = {"praise": POSITIVE, "complaint": NEGATIVE, "billing": BILLING}


def tickets(rows: int = 36) -> list[ipt.Example]:
    """Return texts with none to three labels."""
    rng = random.Random(1)
    examples = []
    for row in range(rows):
        labels = [label for label in TEXTS if rng.random() < 0.5]
        text = " and ".join(rng.choice(TEXTS[label]) for label in labels) or "hello there"
        examples.append(ipt.Example.with_labels(f"{text} {'again ' * (row % 4)}".strip(), labels))
    return examples


def test_a_task_answers_any_number_of_labels(
    engine: ipt.TuningEngine, encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    task = run(engine, [job("tickets", tickets(), "multilabel")])["tickets"]
    assert (task.head.kind, sorted(task.head.labels)) == ("multilabel", sorted(TEXTS))
    assert task.head.scope is None
    predictor = ipt.Predictor(encoder, subspace)
    predictions = predictor.predict([(task.head, example.input) for example in tickets()])
    assert len({len(prediction.labels or ()) for prediction in predictions}) > 1
    report = ipt.multilabel_report(tickets(), predictions)
    assert report.summary.micro_f1 > report.summary.chance, "it knows its own examples"
    for prediction in predictions:
        scores = [(prediction.scores or {})[label] for label in prediction.labels or ()]
        assert scores == sorted(scores, reverse=True)


def test_a_report_of_the_version_has_the_scores_of_its_adaptation(engine: ipt.TuningEngine) -> None:
    task = run(engine, [job("tickets", tickets(), "multilabel")])["tickets"]
    assert task.held_out is not None
    stored = HeldOutLogits.from_bytes(task.held_out.to_bytes(), len(tickets()), 3)
    summary = ipt.held_out_multilabel_report(task.head.labels, tickets(), stored).summary
    assert task.metrics["score_metric"] == "micro_f1"
    assert task.metrics["score"] == pytest.approx(summary.micro_f1)
    for name, value in summary.metrics().items():
        assert task.metrics[name] == value, name


def test_tasks_of_both_kinds_are_tuned_together_as_alone(engine: ipt.TuningEngine) -> None:
    jobs = [job("tickets", tickets(), "multilabel"), job("sentiment", sentiment())]
    together = run(engine, jobs)
    alone = {each.job_id: run(engine, [each])[each.job_id] for each in jobs}
    for name, task in alone.items():
        np.testing.assert_allclose(together[name].head.vector, task.head.vector, **TOLERANCE)


def test_a_resumed_job_has_the_same_result(engine: ipt.TuningEngine) -> None:
    whole = run(engine, [job("tickets", tickets(), "multilabel")])["tickets"]
    engine.add(job("tickets", tickets(), "multilabel"))
    while engine.step()[0].step < 5:
        pass
    checkpoint = engine.checkpoint("tickets")
    engine.remove("tickets")
    engine.add(job("tickets", tickets(), "multilabel"), checkpoint)
    np.testing.assert_allclose(finish_all(engine)["tickets"].head.vector, whole.head.vector, **TOLERANCE)


def test_a_readout_without_thresholds_is_damaged(
    engine: ipt.TuningEngine, encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    classification = run(engine, [job("sentiment", sentiment(), steps=0)])["sentiment"].head
    head = ipt.TaskHead(classification.vector, subspace.id, "multilabel", classification.labels, classification.readout)
    with pytest.raises(CheckpointError, match="a threshold for each label"):
        ipt.Predictor(encoder, subspace).bind(head)
