"""Where tuning starts."""

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
from ipt.tuning.encoder_loop import EncoderLoop
from ipt.tuning.work_runner import WorkRunner
from ipt.tuning.work_units import NO_PROMPT, Forward
from tests.support.datasets import sentiment, topics
from tests.support.tuning import job, run


@pytest.mark.parametrize("penalty", [0.0, 1e9])
def test_tuning_starts_at_the_initial_vector_of_highest_evidence(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch, penalty: float
) -> None:
    monkeypatch.setattr("ipt.tuning.encoder_loop.FAMILY_PENALTY", penalty)
    monkeypatch.setattr("ipt.tuning.encoder_rows.FIRST_LOOK_SHARE", 1.0)
    starts = engine.subspace.initial_vectors
    best = int(np.argmax([log_likelihood(engine, start) for start in starts]))
    assert best != 0, "the first vector must not be the best, or this test shows no choice"
    task = run(engine, [job("start", topics(), steps=0)])["start"]
    np.testing.assert_array_equal(task.head.vector, starts[0 if penalty else best].numpy())


def log_likelihood(engine: ipt.TuningEngine, vector: torch.Tensor) -> float:
    """Return the log-likelihood of the topics' labels by classifiers that each leave out one example of every label.

    The label names are examples too, and no classifier leaves them out.
    """
    examples = topics()
    names = list(dict.fromkeys(example.output for example in examples))
    texts = [example.input for example in examples] + names
    classes = torch.tensor([names.index(example.output) for example in examples] + list(range(len(names))))
    backbone = engine.backbone
    assert isinstance(backbone, EncoderBackbone)
    ids = backbone.tokenize(texts)
    with torch.no_grad():
        prompted = backbone.embed(ids, engine.subspace.decoder(vector[None]).expand(len(ids), -1, -1))
        features = Embeddings(prompted, backbone.embed(ids, None)).features()
    folds = torch.tensor([((classes[:i] == c).sum() + c) % 5 for i, c in enumerate(classes)])
    folds[len(examples) :] = -1
    likelihood = 0.0
    for fold in range(5):
        kept, left_out = folds != fold, folds == fold
        logits = SHARPNESS * fit_linear(features[kept], classes[kept], len(names)).logits(features[left_out])
        likelihood -= float(torch.nn.functional.cross_entropy(logits, classes[left_out], reduction="sum"))
    return likelihood


def test_starts_are_compared_on_a_sample_of_the_rows(engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four starts read a quarter of forty rows; the best one then reads all rows."""
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
    run(engine, [tuning_job])
    rows_of_start = [read[start.numpy().tobytes()] for start in engine.subspace.initial_vectors]
    assert sorted(rows_of_start) == [12, 12, 12, 42], "with the names of both labels"


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
