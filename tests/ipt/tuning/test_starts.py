"""Where tuning starts, and when a tuned vector replaces its start."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.readout.embeddings import Embeddings
from ipt.readout.linear_classifier import fit_linear
from ipt.readout.readout import SHARPNESS
from ipt.tuning.encoder_loop import PROMPT_PENALTY, EncoderLoop
from ipt.tuning.tuning_loop import split_examples
from ipt.tuning.work_runner import WorkRunner
from ipt.tuning.work_units import NO_PROMPT, Forward
from tests.support.datasets import sentiment, topics
from tests.support.tuning import job, run

pytestmark = pytest.mark.usefixtures("keep_tuned")


@pytest.mark.parametrize("penalty", [0.0, 1e9])
def test_tuning_starts_at_the_initial_vector_of_highest_evidence(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch, penalty: float
) -> None:
    monkeypatch.setattr("ipt.tuning.encoder_loop.FAMILY_PENALTY", penalty)
    starts = engine.subspace.initial_vectors
    evidence = [log_likelihood(engine, start) for start in starts]
    best = int(np.argmax(evidence))
    assert best != 0, "the first vector must not be the best, or this test shows no choice"
    expected = 0 if penalty else best
    task = run(engine, [job("start", topics(), steps=0)])["start"]
    np.testing.assert_array_equal(task.head.vector, starts[expected].numpy())
    odds = evidence[expected] - log_likelihood(engine, None) - PROMPT_PENALTY
    assert task.metrics["prompt_weight"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=2e-3)


def log_likelihood(engine: ipt.TuningEngine, vector: torch.Tensor | None) -> float:
    """Return the log-likelihood of the topics' labels by classifiers that each leave out one example of every label.

    With a prompt the label names are examples too, and no classifier leaves them out.
    """
    train, held_back = split_examples(job("start", topics()))
    examples = train + held_back
    names = list(dict.fromkeys(example.output for example in examples))
    texts = [example.input for example in examples] + ([] if vector is None else names)
    classes = torch.tensor([names.index(example.output) for example in examples] + list(range(len(names))))
    classes = classes[: len(texts)]
    backbone = engine.backbone
    assert isinstance(backbone, EncoderBackbone)
    ids = backbone.tokenize(texts)
    with torch.no_grad():
        features = backbone.embed(ids, None)
        if vector is not None:
            prompted = backbone.embed(ids, engine.subspace.decoder(vector[None]).expand(len(ids), -1, -1))
            features = Embeddings(prompted, features).features()
    folds = torch.tensor([((classes[:i] == c).sum() + c) % 5 for i, c in enumerate(classes)])
    folds[len(examples) :] = -1
    likelihood = 0.0
    for fold in range(5):
        kept, left_out = folds != fold, folds == fold
        logits = SHARPNESS * fit_linear(features[kept], classes[kept], len(names)).logits(features[left_out])
        likelihood -= float(torch.nn.functional.cross_entropy(logits, classes[left_out], reduction="sum"))
    return likelihood


def test_most_starts_are_compared_on_a_sample_of_the_rows_only(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four starts read a quarter of forty rows; the first and the two best others read all rows."""
    monkeypatch.setattr("ipt.tuning.encoder_loop.FAMILY_PENALTY", 0.0)
    tuning_job = job("job", sentiment(4), steps=0)
    assert isinstance(engine.backbone, EncoderBackbone)
    rows = EncoderLoop(tuning_job, engine.subspace, engine.backbone).rows
    assert Counter(rows.classes[rows.first_look].tolist()) == {0: 5, 1: 5}
    read: Counter[bytes] = Counter()
    forward = WorkRunner.forward

    def count(self: WorkRunner, works: list[Forward]) -> list[torch.Tensor]:
        read.update(work.vectors[lane].numpy().tobytes() for work in works for lane in work.lanes if lane != NO_PROMPT)
        return forward(self, works)

    monkeypatch.setattr(WorkRunner, "forward", count)
    chosen = run(engine, [tuning_job])["job"].head.vector
    rows_of_start = [read[start.numpy().tobytes()] for start in engine.subspace.initial_vectors]
    assert rows_of_start[0] == 40 + 2, "all rows, and the names of both labels"
    assert sorted(rows_of_start) == [12, 42, 42, 42]
    monkeypatch.setattr("ipt.tuning.encoder_loop.RUNNERS_UP", 3)
    np.testing.assert_array_equal(run(engine, [tuning_job])["job"].head.vector, chosen)
    assert not np.array_equal(chosen, engine.subspace.initial_vectors[0].numpy())


def test_a_tuned_vector_replaces_its_start_for_a_clear_gain_only(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EncoderLoop, "patience", 99)
    tuning_job = job("job", sentiment(3), steps=24, batch_size=512, learning_rate=0.1)
    kept = {}
    for nats in (0.0, 1e9):
        monkeypatch.setattr("ipt.tuning.tuning_loop.KEEP_NATS", nats)
        kept[nats] = run(engine, [tuning_job])["job"].head.vector
    start = run(engine, [job("job", sentiment(3), steps=0)])["job"].head.vector
    np.testing.assert_array_equal(kept[1e9], start)
    assert not np.array_equal(kept[0.0], start)


def test_tuning_starts_at_the_initial_vectors_of_the_job(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    start = np.full((1, 8), 0.25, dtype=np.float32)
    no_steps = ipt.Hyperparameters(steps=0)
    assert (ipt.adapt(encoder, subspace, sentiment(), hyperparameters=no_steps).head.vector == 0).all()
    task = ipt.adapt(encoder, subspace, sentiment(), hyperparameters=no_steps, initial_vectors=start)
    assert (task.head.vector == start[0]).all()
    engine = ipt.TuningEngine(encoder, subspace)
    tuning_job = replace(job("job", sentiment()), initial_vectors=start)
    engine.add(tuning_job)
    while not engine.checkpoint("job"):
        engine.step()
    checkpoint = engine.checkpoint("job")
    engine.remove("job")
    with pytest.raises(ipt.CheckpointError):
        engine.add(replace(tuning_job, initial_vectors=start + 1), checkpoint)
    engine.add(replace(tuning_job, initial_vectors=start.copy()), checkpoint)


@pytest.mark.parametrize("vectors", [np.zeros(8), np.zeros((0, 8)), np.zeros((1, 7)), np.full((1, 8), np.nan)])
def test_initial_vectors_of_the_wrong_shape_are_rejected(
    encoder: EncoderBackbone, subspace: ipt.Subspace, vectors: NDArray[np.float32]
) -> None:
    with pytest.raises(ipt.IptError, match="initial_vectors"):
        ipt.adapt(encoder, subspace, sentiment(), initial_vectors=vectors)
