"""The tuning engine: jobs that share it do not change each other's results, and only vectors change."""

from typing import Any

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.readout.linear_classifier import LinearClassifier, fit_linear
from ipt.tuning.encoder_loop import START_FOLDS
from ipt.tuning.work_runner import WorkRunner
from ipt.tuning.work_units import GradientStep
from tests.support.datasets import sentiment, topics
from tests.support.tuning import TOLERANCE, job, run, run_each_alone

pytestmark = pytest.mark.usefixtures("keep_tuned")


def test_a_fused_run_equals_the_same_jobs_alone(engine: ipt.TuningEngine) -> None:
    jobs = [
        job("short", sentiment(), seed=1),
        job("other-rate", sentiment(3), learning_rate=0.02, steps=7, seed=2),
        job("three-labels", topics(), batch_size=9, restarts=2, seed=3),
    ]
    alone = run_each_alone(engine, jobs)
    for task in alone.values():
        assert not any(np.allclose(task.head.vector, start) for start in engine.subspace.initial_vectors.numpy())
    fused = run(engine, jobs)
    for job_id, task in alone.items():
        np.testing.assert_allclose(fused[job_id].head.vector, task.head.vector, **TOLERANCE)
        assert fused[job_id].metrics["score"] == task.metrics["score"]
        assert fused[job_id].head.labels == task.head.labels


def test_jobs_that_do_not_fit_one_pass_take_several_with_the_same_result(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job("a", sentiment(), seed=1), job("b", topics(), batch_size=9, seed=3), job("c", sentiment(3), seed=2)]
    expected = run(engine, jobs)
    jobs_in_pass: list[int] = []
    outputs = WorkRunner._outputs

    def count(self: WorkRunner, works: Any, prompts: Any, label_smoothing: float = 0.0) -> torch.Tensor:
        if isinstance(works[0], GradientStep):
            jobs_in_pass.append(len(works))
        return outputs(self, works, prompts, label_smoothing)

    monkeypatch.setattr(WorkRunner, "_outputs", count)
    run(engine, jobs)
    assert max(jobs_in_pass) == 3
    jobs_in_pass.clear()
    engine._runner.max_positions = 250
    tasks = run(engine, jobs)
    assert max(jobs_in_pass) < 3
    for job_id, task in expected.items():
        np.testing.assert_allclose(tasks[job_id].head.vector, task.head.vector, **TOLERANCE)


def test_jobs_join_and_leave_a_running_batch_without_affecting_the_others(engine: ipt.TuningEngine) -> None:
    first, late, removed = job("first", sentiment()), job("late", topics(), seed=5), job("removed", sentiment(4))
    alone = run_each_alone(engine, [first, late])
    engine.add(first)
    engine.add(removed)
    for _ in range(6):
        engine.step()
    engine.remove("removed")
    together = run(engine, [late])
    for job_id, task in alone.items():
        np.testing.assert_allclose(together[job_id].head.vector, task.head.vector, **TOLERANCE)


def test_a_step_runs_the_large_fits_of_one_job_at_most(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.readout.linear_classifier.LARGE_FIT", 0)
    fits: list[int] = []

    def count(*args: Any) -> LinearClassifier:
        fits.append(len(args[0]))
        return fit_linear(*args)

    for module in ("ipt.readout.readout", "ipt.readout.cross_validation", "ipt.tuning.encoder_loop"):
        monkeypatch.setattr(f"{module}.fit_linear", count)
    # One step, whose vector is kept: rounding would decide between several vectors that are nearly as good.
    jobs = [job("first", sentiment(), steps=1), job("second", topics(), steps=1)]
    alone = run_each_alone(engine, jobs)
    fits_alone = len(fits)
    fits.clear()
    for each in jobs:
        engine.add(each)
    together: dict[str, ipt.AdaptedTask] = {}
    while engine.job_ids:
        before = len(fits)
        reports = engine.step()
        assert len(fits) - before <= START_FOLDS
        assert [report.job_id for report in reports] == list(engine.job_ids), "a waiting job is reported, too"
        together |= {report.job_id: engine.finish(report.job_id) for report in reports if report.done}
    assert len(fits) == fits_alone
    for job_id, task in alone.items():
        np.testing.assert_allclose(together[job_id].head.vector, task.head.vector, **TOLERANCE)
        assert together[job_id].metrics["score"] == task.metrics["score"]


def test_only_the_vector_changes(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    modules = {"backbone": encoder.model, "decoder": subspace.decoder}
    before = {name: {n: t.clone() for n, t in module.state_dict().items()} for name, module in modules.items()}
    starts = subspace.initial_vectors.clone()
    run(ipt.TuningEngine(encoder, subspace), [job("one", sentiment()), job("two", topics())])
    for module_name, module in modules.items():
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[module_name][name]), f"{module_name}.{name} changed"
        assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(subspace.initial_vectors, starts)


def test_the_same_seed_gives_the_same_vector_and_another_seed_another(engine: ipt.TuningEngine) -> None:
    first, again, other = (run(engine, [job("job", sentiment(3), seed=seed)])["job"].head.vector for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_two_hundred_labels_are_accepted_and_one_more_is_rejected(engine: ipt.TuningEngine) -> None:
    examples = [ipt.Example(f"{word} {n} {n * 7}", f"label {n}") for n in range(200) for word in ("good", "bad")]
    task = run(engine, [job("many", examples, steps=1)])["many"]
    assert len(task.head.labels) == 200
    with pytest.raises(ipt.DatasetError, match="201 labels"):
        engine.add(job("more", [*examples, *[ipt.Example("x", "one more")] * 2]))


def test_progress_is_reported_for_every_step_until_the_job_is_done(engine: ipt.TuningEngine) -> None:
    reports: list[ipt.Progress] = []
    engine.add(job("job", sentiment()), on_step=reports.append)
    while not engine.step()[0].done:
        pass
    assert reports[-1].done
    phases = [report.phase for report in reports]
    assert phases == sorted(phases, key=["preparing", "tuning", "finishing"].index)
    steps = [report.step for report in reports]
    assert steps == sorted(steps)
    assert all(report.steps == 12 for report in reports)
