"""Checkpoints: a resumed job continues exactly, and a wrong or damaged checkpoint is rejected."""

import numpy as np
import pytest

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.datasets import sentiment, topics
from tests.support.tuning import finish_all, job, run

pytestmark = pytest.mark.usefixtures("keep_tuned")


def check_resume(engine: ipt.TuningEngine, tuning_job: ipt.TuningJob, stop_after: int) -> None:
    """Check that a job that stops after some engine steps and resumes ends like an uninterrupted one."""
    uninterrupted = run(engine, [tuning_job])[tuning_job.job_id]
    engine.add(tuning_job)
    for _ in range(stop_after):
        engine.step()
    checkpoint = engine.checkpoint(tuning_job.job_id)
    engine.remove(tuning_job.job_id)
    engine.add(tuning_job, checkpoint)
    resumed = finish_all(engine)[tuning_job.job_id]
    np.testing.assert_allclose(resumed.head.vector, uninterrupted.head.vector, rtol=0.0, atol=1e-6)
    assert resumed.head.readout == uninterrupted.head.readout


@pytest.mark.parametrize("stop_after", [1, 3, 7, 11, 14])
def test_a_resumed_job_gives_the_vector_of_an_uninterrupted_one(engine: ipt.TuningEngine, stop_after: int) -> None:
    check_resume(engine, job("job", sentiment(3), seed=9, restarts=2), stop_after)


@pytest.mark.parametrize("stop_after", [2, 12, 18])
def test_a_job_with_large_fits_resumes_like_an_uninterrupted_one(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr("ipt.readout.linear_classifier.LARGE_FIT", 0)
    check_resume(engine, job("job", topics(), steps=4), stop_after)


def test_a_job_with_more_held_back_examples_than_a_validation_reads_resumes(engine: ipt.TuningEngine) -> None:
    tuning_job = job("large", sentiment(110), steps=2)
    engine.add(tuning_job)
    while engine.step()[0].step < 1:
        pass
    checkpoint = engine.checkpoint("large")
    engine.remove("large")
    engine.add(tuning_job, checkpoint)
    assert engine.step()[0].step >= 1


def test_a_checkpoint_of_another_job_or_subspace_is_rejected(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = ipt.TuningEngine(encoder, subspace)
    engine.add(job("job", sentiment()))
    while engine.step()[0].step < 2:
        pass
    checkpoint = engine.checkpoint("job")
    with pytest.raises(ipt.CheckpointError, match="other examples or hyperparameters"):
        engine.add(job("changed", topics()), checkpoint)
    with pytest.raises(ipt.CheckpointError, match="not readable"):
        engine.add(job("truncated", sentiment()), checkpoint[:-40])
    decoder = SubspaceDecoder(8, 16, 4, 32)
    other = ipt.save_subspace(tmp_path_factory.mktemp("other"), decoder, encoder)
    with pytest.raises(ipt.SubspaceMismatchError, match=subspace.id):
        ipt.TuningEngine(encoder, other).add(job("job", sentiment()), checkpoint)


def test_a_checkpoint_has_a_few_kilobytes(engine: ipt.TuningEngine) -> None:
    engine.add(job("job", sentiment()))
    assert engine.checkpoint("job") == b""
    while engine.step()[0].step < 1:
        pass
    assert 0 < len(engine.checkpoint("job")) < 3000
