"""Gradient steps too large for one pass: they take several passes that fit into memory, with the same result."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ipt
from ipt.backbones.interface import Backbone
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.tuning.work_units import GradientStep
from tests.support.datasets import sentiment, topics
from tests.support.tiny import build_tiny_causal, build_tiny_encoder, build_tiny_seq2seq
from tests.support.tuning import finish_all, job, run, run_each_alone

pytestmark = pytest.mark.usefixtures("keep_tuned")

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "encoder": build_tiny_encoder,
    "t5": lambda folder: build_tiny_seq2seq(folder, "t5"),
    "gpt2": lambda folder: build_tiny_causal(folder, "gpt2"),
}
PROMPT_LENGTH = 4
STEPS = 3


@dataclass(frozen=True)
class Core:
    """A backbone with a subspace of one initial vector."""

    backbone: Backbone
    subspace: ipt.Subspace

    def engine(self) -> ipt.TuningEngine:
        return ipt.TuningEngine(self.backbone, self.subspace)


@pytest.fixture(scope="module", params=list(BUILDERS))
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Core:
    return build_core(request.param, tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def encoder_core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    return build_core("encoder", tmp_path_factory.mktemp("core"))


def build_core(family: str, folder: Path) -> Core:
    backbone = ipt.load_backbone(str(BUILDERS[family](folder / "backbone")), device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=PROMPT_LENGTH, hidden_size=32)
    return Core(backbone, ipt.save_subspace(folder / "subspace", decoder, backbone))


@dataclass
class Passes:
    """The positions of each pass of the backbone with gradients, and of each without."""

    with_gradients: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)

    def record(self, positions: int) -> None:
        (self.with_gradients if torch.is_grad_enabled() else self.without).append(positions)


@pytest.fixture
def passes(core: Core, monkeypatch: pytest.MonkeyPatch) -> Passes:
    return record_passes(core, monkeypatch)


def record_passes(core: Core, monkeypatch: pytest.MonkeyPatch) -> Passes:
    passes = Passes()

    def wrap(method: Callable[..., Any], extra_positions: Callable[..., int]) -> Callable[..., Any]:
        def recorded(inputs: Sequence[list[int]], *args: Any, **kwargs: Any) -> Any:
            prompts = next((arg for arg in args if isinstance(arg, Tensor)), None)
            prompt_positions = 0 if prompts is None else len(inputs) * PROMPT_LENGTH
            passes.record(prompt_positions + sum(map(len, inputs)) + extra_positions(len(inputs), *args, **kwargs))
            return method(inputs, *args, **kwargs)

        return recorded

    extra_positions_of: dict[str, Callable[..., int]] = {
        "embed": lambda _rows, _prompts: 0,
        "target_cross_entropy": lambda _rows, targets, *_, **__: sum(map(len, targets)),
        "score_labels": lambda rows, labels, _: rows * sum(map(len, labels)),
        "generate": lambda rows, _, max_new_tokens: rows * max_new_tokens,
    }
    for name, extra_positions in extra_positions_of.items():
        if hasattr(core.backbone, name):
            monkeypatch.setattr(core.backbone, name, wrap(getattr(core.backbone, name), extra_positions))
    return passes


def limit_positions(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    """Limit the positions of each pass, in engines created from now on."""
    monkeypatch.setattr("ipt.runtime.memory.CPU_POSITIONS", positions)
    monkeypatch.setattr("ipt.tuning.row_embeddings.FORWARD_TOKENS", positions)
    monkeypatch.setattr("ipt.tuning.text_loop.UNIT_TOKENS", positions)


def large_job(job_id: str, examples: list[ipt.Example], **changes: Any) -> ipt.TuningJob:
    """Return a job with one lane for each restart and all examples in every step."""
    tuned_on = [example for number, example in enumerate(examples) if number % 4]
    whole = job(job_id, tuned_on, **{"steps": STEPS, "batch_size": 512, **changes})
    return replace(whole, validation_examples=examples[::4])


def advance_to_tuning(engine: ipt.TuningEngine, job_id: str) -> None:
    while not isinstance(engine._jobs[job_id].work, GradientStep):
        engine.step()


@pytest.mark.parametrize(
    ("max_positions", "passes_of_a_lane"),
    [pytest.param(250, 1, id="a pass for each lane"), pytest.param(90, 2, id="several passes for each lane")],
)
def test_a_step_larger_than_memory_takes_several_passes_with_the_same_result(
    core: Core, passes: Passes, monkeypatch: pytest.MonkeyPatch, max_positions: int, passes_of_a_lane: int
) -> None:
    monkeypatch.setattr("ipt.tuning.tuning_loop.PATIENCE", 99)
    tuning_job = large_job("large", topics(), restarts=3, learning_rate=0.2)
    whole = run(core.engine(), [tuning_job])["large"]
    assert len(passes.with_gradients) == STEPS
    assert passes.with_gradients[0] > 1.9 * max_positions

    passes.with_gradients.clear()
    passes.without.clear()
    limit_positions(monkeypatch, max_positions)
    parts = run(core.engine(), [tuning_job])["large"]
    assert (len(passes.with_gradients) == 3 * STEPS) == (passes_of_a_lane == 1)
    assert len(passes.with_gradients) >= passes_of_a_lane * 3 * STEPS
    assert max(*passes.with_gradients, *passes.without) <= max_positions
    np.testing.assert_allclose(parts.head.vector, whole.head.vector, rtol=0.0, atol=5e-4)
    assert parts.metrics["steps_run"] == whole.metrics["steps_run"] == STEPS
    assert parts.metrics["score"] == whole.metrics["score"]
    assert np.abs(whole.head.vector - core.subspace.initial_vectors[0].numpy()).max() > 1e-2, (
        "the vector must move, or this test shows nothing"
    )


def test_a_gradient_is_the_same_in_parts(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares the gradient itself, because the optimizer's step hardly depends on its norm."""
    whole, parts = core.engine(), core.engine()
    parts._runner.max_positions = parts._runner.max_positions_without_gradients = 60
    whole.add(large_job("large", topics()))
    advance_to_tuning(whole, "large")
    step: Any = whole._jobs["large"].work
    losses, gradients = whole._runner.gradients([step])
    results: list[tuple[Tensor, Tensor]] = []

    def all_passes() -> Iterator[None]:
        results.append((yield from parts._runner.gradients_of_large_lane(step.split_lanes()[0])))

    assert len(list(all_passes())) > 2
    torch.testing.assert_close(results, [(losses, gradients)], rtol=1e-3, atol=1e-5)
    assert gradients.abs().max() > 1e-3


def test_steps_of_all_jobs_share_one_pass_if_they_fit(core: Core, passes: Passes) -> None:
    jobs = [large_job(name, topics(), batch_size=9, restarts=2, seed=seed) for seed, name in enumerate("abc")]
    run(core.engine(), jobs)
    assert len(passes.with_gradients) == STEPS


def test_an_engine_step_runs_one_pass_of_a_large_gradient_step_while_small_jobs_advance(
    encoder_core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = large_job("small", sentiment(), batch_size=4, steps=8), large_job("large", topics())
    alone = run_each_alone(encoder_core.engine(), (small, large))
    limit_positions(monkeypatch, 90)
    engine = encoder_core.engine()
    engine.add(small)
    steps_alone = 0
    while not engine.step()[0].done:
        steps_alone += 1
    engine.remove("small")

    passes = record_passes(encoder_core, monkeypatch)
    engine.add(large)
    advance_to_tuning(engine, "large")
    engine.add(small)
    steps_beside = 0
    large_steps = []
    done: dict[str, ipt.AdaptedTask] = {}
    while engine.job_ids:
        passes.with_gradients.clear()
        reports = {progress.job_id: progress for progress in engine.step()}
        assert len(passes.with_gradients) <= 2
        steps_beside += "small" in reports and not reports["small"].done
        if "large" in reports:
            large_steps.append(reports["large"].step)
        done |= {name: engine.finish(name) for name, report in reports.items() if report.done}
    assert steps_beside == steps_alone
    assert large_steps == sorted(large_steps)
    assert Counter(large_steps)[1] > 4, "the second gradient step takes several passes"
    for name, task in alone.items():
        np.testing.assert_allclose(done[name].head.vector, task.head.vector, rtol=0.0, atol=5e-4)


def test_large_gradient_steps_of_several_jobs_take_turns(encoder_core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [large_job("first", topics()), large_job("second", sentiment(), restarts=2)]
    alone = run_each_alone(encoder_core.engine(), jobs)
    monkeypatch.setattr("ipt.runtime.memory.CPU_POSITIONS", 90)
    engine = encoder_core.engine()
    for each in jobs:
        engine.add(each)
    ahead = []
    done: dict[str, ipt.AdaptedTask] = {}
    while engine.job_ids:
        reports = {progress.job_id: progress for progress in engine.step()}
        if len(reports) == 2 and all(report.phase == "tuning" for report in reports.values()):
            ahead.append(reports["first"].step - reports["second"].step)
        done |= {name: engine.finish(name) for name, report in reports.items() if report.done}
    assert set(ahead) <= {-1, 0, 1}
    for name, task in alone.items():
        np.testing.assert_allclose(done[name].head.vector, task.head.vector, rtol=0.0, atol=5e-4)


def test_a_job_leaves_and_resumes_in_the_middle_of_a_large_gradient_step(
    encoder_core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [large_job("stays", sentiment()), large_job("leaves", topics())]
    alone = run_each_alone(encoder_core.engine(), jobs)
    limit_positions(monkeypatch, 90)
    engine = encoder_core.engine()
    for each in jobs:
        engine.add(each)
    while len(engine._large_steps) < 2 or engine._large_steps[0][0] is not engine._jobs["leaves"]:
        engine.step()
    engine.step()
    checkpoint = engine.checkpoint("leaves")
    engine.remove("leaves")
    assert len(engine._large_steps) == 1
    engine.step()
    engine.add(jobs[1], checkpoint)
    done = finish_all(engine)
    for name, task in alone.items():
        np.testing.assert_allclose(done[name].head.vector, task.head.vector, rtol=0.0, atol=5e-4)


def test_a_failed_large_gradient_step_starts_again(encoder_core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning_job = large_job("large", topics())
    whole = run(encoder_core.engine(), [tuning_job])["large"]
    limit_positions(monkeypatch, 90)
    engine = encoder_core.engine()
    engine.add(tuning_job)
    advance_to_tuning(engine, "large")
    while not engine._large_steps:
        engine.step()

    def run_out_of_memory(*_: Any) -> Tensor:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(encoder_core.backbone, "embed", run_out_of_memory)
        with pytest.raises(MemoryError):
            engine.step()
    np.testing.assert_allclose(finish_all(engine)["large"].head.vector, whole.head.vector, rtol=0.0, atol=5e-4)
