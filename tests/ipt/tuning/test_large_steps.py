"""Gradient steps too large for one pass: done in passes that memory has room for, with the same result."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ipt
from ipt.backbones.interface import Backbone
from ipt.subspace.modules import SubspaceDecoder
from tests.support.datasets import sentiment, topics
from tests.support.tiny import build_tiny_causal, build_tiny_encoder, build_tiny_seq2seq

pytestmark = pytest.mark.usefixtures("keep_tuned")

BUILT: dict[str, Callable[[Path], Path]] = {
    "encoder": build_tiny_encoder,
    "t5": lambda folder: build_tiny_seq2seq(folder, "t5"),
    "gpt2": lambda folder: build_tiny_causal(folder, "gpt2"),
}
PROMPT_LENGTH = 4
STEPS = 3


@dataclass(frozen=True)
class Core:
    """A backbone with a subspace that starts at one vector."""

    backbone: Backbone
    subspace: ipt.Subspace

    def engine(self) -> ipt.TuningEngine:
        return ipt.TuningEngine(self.backbone, self.subspace)


@pytest.fixture(scope="module", params=list(BUILT))
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Core:
    return built(request.param, tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def encoder_core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    return built("encoder", tmp_path_factory.mktemp("core"))


def built(family: str, folder: Path) -> Core:
    backbone = ipt.load_backbone(str(BUILT[family](folder / "backbone")), device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=PROMPT_LENGTH, hidden_size=32)
    return Core(backbone, ipt.save_subspace(folder / "subspace", decoder, backbone))


@dataclass
class Calls:
    """What the backbone was asked: positions of each pass with gradients, and of each without."""

    with_gradients: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)

    def note(self, positions: int) -> None:
        (self.with_gradients if torch.is_grad_enabled() else self.without).append(positions)


@pytest.fixture
def calls(core: Core, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return counted(core, monkeypatch)


def counted(core: Core, monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen = Calls()

    def wrapped(read: Callable[..., Any], own: Callable[..., int]) -> Callable[..., Any]:
        def noted(inputs: Sequence[list[int]], *given: Any, **named: Any) -> Any:
            prompts = next((each for each in given if isinstance(each, Tensor)), None)
            prompted = 0 if prompts is None else len(inputs) * PROMPT_LENGTH
            seen.note(prompted + sum(map(len, inputs)) + own(len(inputs), *given, **named))
            return read(inputs, *given, **named)

        return noted

    also: dict[str, Callable[..., int]] = {
        "embed": lambda _rows, _prompts: 0,
        "target_cross_entropy": lambda _rows, targets, *_, **__: sum(map(len, targets)),
        "score_labels": lambda rows, labels, _: rows * sum(map(len, labels)),
        "generate": lambda rows, _, max_new_tokens: rows * max_new_tokens,
    }
    for name, own in also.items():
        if hasattr(core.backbone, name):
            monkeypatch.setattr(core.backbone, name, wrapped(getattr(core.backbone, name), own))
    return seen


def bound(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    """Of all that is asked of the backbone from now on, by engines made from now on."""
    monkeypatch.setattr("ipt.runtime.memory.CPU_POSITIONS", positions)
    monkeypatch.setattr("ipt.tuning.encoder_program.FORWARD_TOKENS", positions)
    monkeypatch.setattr("ipt.tuning.text_program.UNIT_TOKENS", positions)


def job(job_id: str, examples: list[ipt.Example], **hyperparameters: Any) -> ipt.TuningJob:
    asked = {"steps": STEPS, "batch_size": 512, "learning_rate": 0.05, **hyperparameters}
    return ipt.TuningJob(job_id, examples, "classification", hyperparameters=ipt.Hyperparameters(**asked))


def finished(engine: ipt.TuningEngine) -> dict[str, ipt.AdaptedTask]:
    done = {}
    while engine.job_ids:
        done |= {p.job_id: engine.finish(p.job_id) for p in engine.step() if p.done}
    return done


def run(engine: ipt.TuningEngine, *jobs: ipt.TuningJob) -> dict[str, ipt.AdaptedTask]:
    for each in jobs:
        engine.add(each)
    return finished(engine)


def begin_to_tune(engine: ipt.TuningEngine, job_id: str) -> None:
    while not engine.checkpoint(job_id):
        engine.step()


@pytest.mark.parametrize(
    ("most_positions", "passes_of_a_lane"),
    [pytest.param(250, 1, id="a pass for each lane"), pytest.param(90, 2, id="several passes for each lane")],
)
def test_a_step_larger_than_memory_is_done_in_passes_within_it_and_changes_nothing(
    core: Core, calls: Calls, monkeypatch: pytest.MonkeyPatch, most_positions: int, passes_of_a_lane: int
) -> None:
    monkeypatch.setattr("ipt.tuning.encoder_program.EncoderProgram.patience", 99)
    asked = job("large", topics(), restarts=3, learning_rate=0.2)
    whole = run(core.engine(), asked)["large"]
    assert len(calls.with_gradients) == STEPS
    assert calls.with_gradients[0] > 2 * most_positions

    calls.with_gradients.clear()
    calls.without.clear()
    bound(monkeypatch, most_positions)
    parts = run(core.engine(), asked)["large"]
    assert (len(calls.with_gradients) == 3 * STEPS) == (passes_of_a_lane == 1)
    assert len(calls.with_gradients) >= passes_of_a_lane * 3 * STEPS
    assert max(*calls.with_gradients, *calls.without) <= most_positions
    np.testing.assert_allclose(parts.head.vector, whole.head.vector, rtol=0.0, atol=5e-4)
    assert parts.metrics["steps_run"] == whole.metrics["steps_run"] == STEPS
    assert parts.metrics["score"] == whole.metrics["score"]
    assert np.abs(whole.head.vector - core.subspace.initial_vectors[0].numpy()).max() > 1e-2, (
        "a test in which nothing moves"
    )


def test_a_gradient_is_the_same_in_parts(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an optimizer hides its size."""
    whole, parts = core.engine(), core.engine()
    parts._most_positions = parts._most_without_gradients = 60
    whole.add(job("large", topics()))
    begin_to_tune(whole, "large")
    work: Any = whole._running["large"].work
    losses, gradients = whole._gradients([work])
    of_parts: list[tuple[Tensor, Tensor]] = []

    def all_passes() -> Iterator[None]:
        of_parts.append((yield from parts._gradients_of_large_lane(work.lanes_alone()[0])))

    assert len(list(all_passes())) > 2
    torch.testing.assert_close(of_parts, [(losses, gradients)], rtol=1e-3, atol=1e-5)
    assert gradients.abs().max() > 1e-3


def test_steps_that_fit_take_one_pass_for_all_jobs(core: Core, calls: Calls) -> None:
    jobs = [job(name, topics(), batch_size=9, restarts=2, seed=seed) for seed, name in enumerate("abc")]
    run(core.engine(), *jobs)
    assert len(calls.with_gradients) == STEPS


def test_an_engine_step_makes_one_pass_of_a_large_gradient_step_while_small_jobs_go_on(
    encoder_core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = job("small", sentiment(), batch_size=4, steps=8), job("large", topics())
    alone = {each.job_id: run(encoder_core.engine(), each)[each.job_id] for each in (small, large)}
    bound(monkeypatch, 90)
    engine = encoder_core.engine()
    engine.add(small)
    steps_alone = 0
    while not engine.step()[0].done:
        steps_alone += 1
    engine.remove("small")

    calls = counted(encoder_core, monkeypatch)
    engine.add(large)
    begin_to_tune(engine, "large")
    engine.add(small)
    steps_beside = 0
    large_steps = []
    done = {}
    while engine.job_ids:
        calls.with_gradients.clear()
        reports = {progress.job_id: progress for progress in engine.step()}
        assert len(calls.with_gradients) <= 2
        steps_beside += "small" in reports and not reports["small"].done
        if "large" in reports:
            large_steps.append(reports["large"].step)
        done |= {name: engine.finish(name) for name, report in reports.items() if report.done}
    assert steps_beside == steps_alone
    assert large_steps == sorted(large_steps)
    assert Counter(large_steps)[1] > 4, "several passes go by before the second gradient step counts"
    for name, task in alone.items():
        np.testing.assert_allclose(done[name].head.vector, task.head.vector, rtol=0.0, atol=5e-4)


def test_large_gradient_steps_of_several_jobs_take_turns(encoder_core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job("first", topics()), job("second", sentiment(), restarts=2)]
    alone = {each.job_id: run(encoder_core.engine(), each)[each.job_id] for each in jobs}
    monkeypatch.setattr("ipt.runtime.memory.CPU_POSITIONS", 90)
    engine = encoder_core.engine()
    for each in jobs:
        engine.add(each)
    ahead = []
    done = {}
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
    jobs = [job("stays", sentiment()), job("leaves", topics())]
    alone = {each.job_id: run(encoder_core.engine(), each)[each.job_id] for each in jobs}
    bound(monkeypatch, 90)
    engine = encoder_core.engine()
    for each in jobs:
        engine.add(each)
    while len(engine._in_parts) < 2 or engine._in_parts[0][0] is not engine._running["leaves"]:
        engine.step()
    engine.step()
    saved = engine.checkpoint("leaves")
    engine.remove("leaves")
    assert len(engine._in_parts) == 1
    engine.step()
    engine.add(jobs[1], saved)
    done = finished(engine)
    for name, task in alone.items():
        np.testing.assert_allclose(done[name].head.vector, task.head.vector, rtol=0.0, atol=5e-4)


def test_a_large_gradient_step_that_failed_begins_anew(encoder_core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job("large", topics())
    whole = run(encoder_core.engine(), asked)["large"]
    bound(monkeypatch, 90)
    engine = encoder_core.engine()
    engine.add(asked)
    begin_to_tune(engine, "large")
    while not engine._in_parts:
        engine.step()

    def no_room(*_: Any) -> Tensor:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(encoder_core.backbone, "embed", no_room)
        with pytest.raises(MemoryError):
            engine.step()
    np.testing.assert_allclose(finished(engine)["large"].head.vector, whole.head.vector, rtol=0.0, atol=5e-4)
