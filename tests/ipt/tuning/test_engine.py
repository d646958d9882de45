"""The tuning engine: a shared batch changes nothing, and nothing but vectors changes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.readout.embeddings import PROMPTED_SHARE, Embeddings
from ipt.readout.linear_classifier import LinearClassifier, fit_linear
from ipt.readout.readout import SHARPNESS
from ipt.tuning.encoder_program import FOLDS, PROMPT_PENALTY, VALIDATION_ROWS, EncoderProgram
from ipt.tuning.losses import RIDGE_LABEL_SMOOTHING, RidgeLoss
from ipt.tuning.optimizer import CLIP_NORM, scheduled
from ipt.tuning.program import split_examples
from ipt.tuning.work import NO_PROMPT, Descend, Forward, Work
from tests.reference import ist
from tests.support.datasets import sentiment, topics

pytestmark = pytest.mark.usefixtures("keep_tuned")

TOLERANCE = {"rtol": 0.0, "atol": 2e-4}


def job(job_id: str, examples: list[ipt.Example], **hyperparameters: object) -> ipt.TuningJob:
    asked = ipt.Hyperparameters(**{"steps": 12, "batch_size": 8, "learning_rate": 0.05, **hyperparameters})  # type: ignore[arg-type]
    return ipt.TuningJob(job_id, examples, "classification", hyperparameters=asked)


def run(engine: ipt.TuningEngine, jobs: Iterable[ipt.TuningJob]) -> dict[str, ipt.AdaptedTask]:
    for each in jobs:
        engine.add(each)
    finished = {}
    while engine.job_ids:
        for progress in engine.step():
            if progress.done:
                finished[progress.job_id] = engine.finish(progress.job_id)
    return finished


@pytest.fixture
def engine(encoder: EncoderBackbone, subspace: ipt.Subspace) -> ipt.TuningEngine:
    return ipt.TuningEngine(encoder, subspace)


def test_a_fused_run_equals_the_same_jobs_alone(engine: ipt.TuningEngine) -> None:
    jobs = [
        job("short", sentiment(), seed=1),
        job("other-rate", sentiment(3), learning_rate=0.02, steps=7, seed=2),
        job("three-labels", topics(), batch_size=9, restarts=2, seed=3),
    ]
    alone = {each.job_id: run(engine, [each])[each.job_id] for each in jobs}
    for task in alone.values():
        assert not any(np.allclose(task.head.vector, start) for start in engine.subspace.initial_vectors.numpy())
    fused = run(engine, jobs)
    for job_id, task in alone.items():
        np.testing.assert_allclose(fused[job_id].head.vector, task.head.vector, **TOLERANCE)
        assert fused[job_id].metrics["score"] == task.metrics["score"]
        assert fused[job_id].head.labels == task.head.labels


@pytest.mark.parametrize(("patience", "steps_run"), [(None, 10), (2, 20)])
def test_a_job_stops_where_validations_are_no_better_any_more(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch, patience: int | None, steps_run: int
) -> None:
    if patience is not None:
        monkeypatch.setattr(EncoderProgram, "patience", patience)
    left_of = {"stale": [0.9, 0.9, 0.9, 0.1, 0.1], "better": [0.9, 0.8, 0.7, 0.6, 0.5]}

    def told(self: EncoderProgram, vectors: torch.Tensor) -> Iterator[Work]:
        yield from ()
        return [left_of[self.job.job_id].pop(0)] * len(vectors)

    monkeypatch.setattr(EncoderProgram, "validation_losses", told)
    monkeypatch.setattr("ipt.tuning.program.KEEP_NATS", 0.0)
    done = run(engine, [job(name, sentiment(), steps=40) for name in left_of])
    # Validated before the first step and after each tenth: the second of the stale ones is the first without a gain.
    assert {name: task.metrics["steps_run"] for name, task in done.items()} == {"stale": steps_run, "better": 40}


def test_texts_are_tokenized_once(engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    tokenize = EncoderBackbone.tokenize

    def counted(self: EncoderBackbone, texts: Any, max_tokens: int | None = None) -> list[list[int]]:
        calls.append(len(texts))
        return tokenize(self, texts, max_tokens)

    monkeypatch.setattr(EncoderBackbone, "tokenize", counted)
    run(engine, [job("one", sentiment())])
    assert calls == [len(sentiment()) + 2], "not the examples and the names of the two labels"


def test_what_one_pass_has_no_room_for_is_done_in_several_and_changes_nothing(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job("a", sentiment(), seed=1), job("b", topics(), batch_size=9, seed=3), job("c", sentiment(3), seed=2)]
    wanted = run(engine, jobs)
    passes: list[int] = []
    outputs = ipt.TuningEngine._outputs

    def counted(self: ipt.TuningEngine, works: Any, prompts: Any, label_smoothing: float = 0.0) -> torch.Tensor:
        if isinstance(works[0], Descend):
            passes.append(len(works))
        return outputs(self, works, prompts, label_smoothing)

    monkeypatch.setattr(ipt.TuningEngine, "_outputs", counted)
    run(engine, jobs)
    assert max(passes) == 3
    passes.clear()
    engine._most_positions = 250
    found = run(engine, jobs)
    assert max(passes) < 3
    for job_id, task in wanted.items():
        np.testing.assert_allclose(found[job_id].head.vector, task.head.vector, **TOLERANCE)


def test_no_text_is_read_twice_behind_the_same_prompt(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[bytes, tuple[int, ...]]] = []
    forward = ipt.TuningEngine._forward

    def noted(self: ipt.TuningEngine, works: list[Forward]) -> list[torch.Tensor]:
        for work in works:
            behind = [b"" if lane == NO_PROMPT else work.vectors[lane].numpy().tobytes() for lane in work.lanes]
            read.extend(zip(behind, map(tuple, work.inputs), strict=True))
        return forward(self, works)

    monkeypatch.setattr(ipt.TuningEngine, "_forward", noted)
    run(engine, [job("one", topics(), steps=8)])
    assert max(Counter(read).values()) == 1


def test_losses_of_unlike_lanes_are_those_of_each_alone() -> None:
    def loss(sizes: list[int], num_classes: int, ridge: float) -> RidgeLoss:
        rows = sum(sizes)
        return RidgeLoss(
            sizes, normalize(torch.randn(rows, 8)), torch.arange(rows) % num_classes, num_classes, ridge, 8
        )

    losses = [loss([6, 6], 2, 0.3), loss([9], 3, 0.3), loss([6, 9], 3, 0.3), loss([6], 2, 0.5), loss([6], 2, 0.3)]
    sizes = [sum(each.lane_sizes) for each in losses]
    outputs = normalize(torch.randn(sum(sizes), 8))
    alone = [RidgeLoss.of_lanes([each], part) for each, part in zip(losses, torch.split(outputs, sizes), strict=True)]
    assert [len(each) for each in alone] == [2, 1, 2, 1, 1]
    torch.testing.assert_close(RidgeLoss.of_lanes(losses, outputs), torch.cat(alone))


def test_jobs_join_and_leave_a_running_batch_without_disturbing_the_others(engine: ipt.TuningEngine) -> None:
    first, late, doomed = job("first", sentiment()), job("late", topics(), seed=5), job("doomed", sentiment(4))
    alone = {each.job_id: run(engine, [each])[each.job_id] for each in (first, late)}
    engine.add(first)
    engine.add(doomed)
    for _ in range(6):
        engine.step()
    engine.remove("doomed")
    together = run(engine, [late])
    for job_id, task in alone.items():
        np.testing.assert_allclose(together[job_id].head.vector, task.head.vector, **TOLERANCE)


def test_the_batched_run_equals_a_plain_loop(engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's AdamW, one row at a time, with each row really left out (tests/reference/ist.py)."""
    monkeypatch.setattr(EncoderProgram, "patience", 99)
    asked = job("reference", topics(), steps=6, learning_rate=0.05)
    program = EncoderProgram(asked, engine.subspace, engine.backbone)  # type: ignore[arg-type]
    engine.add(asked)
    while engine.step()[0].phase == "preparing":
        pass
    state = engine._running["reference"].program.state
    assert state is not None
    start = state.best_vectors[0].clone()
    drawn = [program._draw(0, step) for step in range(6)]
    rows = [([program.token_ids[row] for row in drawn_rows], classes.tolist()) for drawn_rows, classes in drawn]
    expected = ist.tune(
        start,
        rows,
        lambda ids, prompt: engine.backbone.embed([ids], None if prompt is None else prompt[None])[0],  # type: ignore[attr-defined]
        lambda vector: engine.subspace.decoder(vector[None])[0],
        ridge=program.ridge,
        scale=program.scale,
        share=PROMPTED_SHARE,
        smoothing=RIDGE_LABEL_SMOOTHING,
        rates=[scheduled(0.05, step, 6) for step in range(6)],
        clip=CLIP_NORM,
    )
    while state.lanes.step < 6 and engine.job_ids:
        engine.step()
    torch.testing.assert_close(state.lanes.vectors[0], expected, rtol=0.0, atol=2e-4)
    assert not torch.allclose(expected, start, atol=1e-2), "a test in which nothing moves shows nothing"


@pytest.mark.parametrize("penalty", [0.0, 1e9])
def test_tuning_starts_where_the_examples_are_likeliest(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch, penalty: float
) -> None:
    monkeypatch.setattr("ipt.tuning.encoder_program.FAMILY_PENALTY", penalty)
    starts = engine.subspace.initial_vectors
    evidence = [log_likelihood(engine, start) for start in starts]
    best = int(np.argmax(evidence))
    assert best != 0, "a test in which the first one is best does not show a choice"
    expected = 0 if penalty else best
    task = run(engine, [job("start", topics(), steps=0)])["start"]
    np.testing.assert_array_equal(task.head.vector, starts[expected].numpy())
    odds = evidence[expected] - log_likelihood(engine, None) - PROMPT_PENALTY
    assert task.metrics["prompt_weight"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=2e-3)


def test_most_starts_are_read_behind_a_part_of_the_rows_alone(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four behind a quarter of forty rows, then the first and the two that this quarter favours behind the rest."""
    monkeypatch.setattr("ipt.tuning.encoder_program.FAMILY_PENALTY", 0.0)
    asked = job("job", sentiment(4), steps=0)
    program = EncoderProgram(asked, engine.subspace, engine.backbone)  # type: ignore[arg-type]
    assert Counter(program.classes[program.first_look_rows].tolist()) == {0: 5, 1: 5}
    read: Counter[bytes] = Counter()
    forward = ipt.TuningEngine._forward

    def counted(self: ipt.TuningEngine, works: list[Forward]) -> list[torch.Tensor]:
        read.update(work.vectors[lane].numpy().tobytes() for work in works for lane in work.lanes if lane != NO_PROMPT)
        return forward(self, works)

    monkeypatch.setattr(ipt.TuningEngine, "_forward", counted)
    chosen = run(engine, [asked])["job"].head.vector
    rows_behind = [read[start.numpy().tobytes()] for start in engine.subspace.initial_vectors]
    assert rows_behind[0] == 40 + 2, "not all rows, and the names of both labels"
    assert sorted(rows_behind) == [12, 42, 42, 42]
    monkeypatch.setattr("ipt.tuning.encoder_program.RUNNERS_UP", 3)
    np.testing.assert_array_equal(run(engine, [asked])["job"].head.vector, chosen)
    assert not np.array_equal(chosen, engine.subspace.initial_vectors[0].numpy())


def log_likelihood(engine: ipt.TuningEngine, vector: torch.Tensor | None) -> float:
    """Of the topics' labels, by classifiers that were each fitted without one example of every label.

    Behind a prompt the labels' names are examples too, which none is without.
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
    turn = torch.tensor([((classes[:i] == c).sum() + c) % 5 for i, c in enumerate(classes)])
    turn[len(examples) :] = -1
    likelihood = 0.0
    for n in range(5):
        kept, out = turn != n, turn == n
        logits = SHARPNESS * fit_linear(features[kept], classes[kept], len(names)).logits(features[out])
        likelihood -= float(torch.nn.functional.cross_entropy(logits, classes[out], reduction="sum"))
    return likelihood


def test_a_start_is_left_for_a_clear_gain_alone(engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncoderProgram, "patience", 99)
    asked = job("job", sentiment(3), steps=24, batch_size=512, learning_rate=0.1)
    kept = {}
    for nats in (0.0, 1e9):
        monkeypatch.setattr("ipt.tuning.program.KEEP_NATS", nats)
        kept[nats] = run(engine, [asked])["job"].head.vector
    start = run(engine, [job("job", sentiment(3), steps=0)])["job"].head.vector
    np.testing.assert_array_equal(kept[1e9], start)
    assert not np.array_equal(kept[0.0], start)


def test_only_the_vector_changes(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    modules = {"backbone": encoder.model, "decoder": subspace.decoder}
    before = {where: {n: t.clone() for n, t in m.state_dict().items()} for where, m in modules.items()}
    starts = subspace.initial_vectors.clone()
    run(ipt.TuningEngine(encoder, subspace), [job("one", sentiment()), job("two", topics())])
    for where, module in modules.items():
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[where][name]), f"{where}.{name} changed"
        assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(subspace.initial_vectors, starts)


def test_the_same_seed_gives_the_same_vector_and_another_seed_another(engine: ipt.TuningEngine) -> None:
    first, again, other = (run(engine, [job("job", sentiment(3), seed=seed)])["job"].head.vector for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def check_resumed(engine: ipt.TuningEngine, asked: ipt.TuningJob, stopped_after: int) -> None:
    """Stopped after so many steps and resumed, the job ends as it does undisturbed."""
    undisturbed = run(engine, [asked])[asked.job_id]
    engine.add(asked)
    for _ in range(stopped_after):
        engine.step()
    saved = engine.checkpoint(asked.job_id)
    engine.remove(asked.job_id)
    engine.add(asked, saved)
    while not engine.step()[0].done:
        pass
    resumed = engine.finish(asked.job_id)
    np.testing.assert_allclose(resumed.head.vector, undisturbed.head.vector, rtol=0.0, atol=1e-6)
    assert resumed.head.readout == undisturbed.head.readout


@pytest.mark.parametrize("stopped_after", [1, 3, 7, 11, 14])
def test_a_resumed_job_gives_the_vector_of_an_undisturbed_one(engine: ipt.TuningEngine, stopped_after: int) -> None:
    asked = job("job", sentiment(3), seed=9, restarts=2)
    check_resumed(engine, asked, stopped_after)


def test_a_step_makes_the_large_fits_of_one_job_at_most(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.readout.linear_classifier.LARGE_FIT", 0)
    fits: list[int] = []

    def counted(*given: Any) -> LinearClassifier:
        fits.append(len(given[0]))
        return fit_linear(*given)

    for place in ("ipt.readout.readout", "ipt.readout.cross_validation", "ipt.tuning.encoder_program"):
        monkeypatch.setattr(f"{place}.fit_linear", counted)
    # One step, whose vector is kept: of several nearly as good, rounding would decide which is.
    monkeypatch.setattr("ipt.tuning.program.KEEP_NATS", -1e9)
    jobs = [job("first", sentiment(), steps=1), job("second", topics(), steps=1)]
    alone = {each.job_id: run(engine, [each])[each.job_id] for each in jobs}
    made = len(fits)
    fits.clear()
    for each in jobs:
        engine.add(each)
    together = {}
    while engine.job_ids:
        before = len(fits)
        reports = engine.step()
        assert len(fits) - before <= FOLDS
        assert [report.job_id for report in reports] == list(engine.job_ids), "one that waits is reported, too"
        together |= {report.job_id: engine.finish(report.job_id) for report in reports if report.done}
    assert len(fits) == made
    for job_id, task in alone.items():
        np.testing.assert_allclose(together[job_id].head.vector, task.head.vector, **TOLERANCE)
        assert together[job_id].metrics["score"] == task.metrics["score"]


@pytest.mark.parametrize("stopped_after", [2, 12, 18])
def test_a_job_of_large_fits_resumes_as_undisturbed(
    engine: ipt.TuningEngine, monkeypatch: pytest.MonkeyPatch, stopped_after: int
) -> None:
    monkeypatch.setattr("ipt.readout.linear_classifier.LARGE_FIT", 0)
    asked = job("job", topics(), steps=4)
    check_resumed(engine, asked, stopped_after)


def test_a_job_with_more_held_back_than_is_validated_on_resumes(engine: ipt.TuningEngine) -> None:
    asked = job("large", sentiment(110), steps=2)
    engine.add(asked)
    while engine.step()[0].step < 1:
        pass
    saved = engine.checkpoint("large")
    engine.remove("large")
    engine.add(asked, saved)
    assert engine.step()[0].step >= 1


def test_a_checkpoint_is_refused_by_another_job_and_another_subspace(
    encoder: EncoderBackbone, subspace: ipt.Subspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = ipt.TuningEngine(encoder, subspace)
    engine.add(job("job", sentiment()))
    while engine.step()[0].step < 2:
        pass
    saved = engine.checkpoint("job")
    with pytest.raises(ipt.CheckpointError, match="other examples or hyperparameters"):
        engine.add(job("changed", topics()), saved)
    with pytest.raises(ipt.CheckpointError, match="not readable"):
        engine.add(job("cut", sentiment()), saved[:-40])
    decoder = type(subspace.decoder)(8, 16, 4, 32)
    elsewhere = ipt.save_subspace(tmp_path_factory.mktemp("other"), decoder, encoder)
    with pytest.raises(ipt.SubspaceMismatchError, match=subspace.id):
        ipt.TuningEngine(encoder, elsewhere).add(job("job", sentiment()), saved)


def test_a_checkpoint_is_a_few_kilobytes(engine: ipt.TuningEngine) -> None:
    engine.add(job("job", sentiment()))
    assert engine.checkpoint("job") == b""
    while engine.step()[0].step < 1:
        pass
    assert 0 < len(engine.checkpoint("job")) < 3000


def test_two_hundred_labels_are_tuned_and_one_more_is_refused(engine: ipt.TuningEngine) -> None:
    examples = [ipt.Example(f"{word} {n} {n * 7}", f"label {n}") for n in range(200) for word in ("good", "bad")]
    task = run(engine, [job("many", examples, steps=1)])["many"]
    assert len(task.head.labels) == 200
    with pytest.raises(ipt.DatasetError, match="201 labels"):
        engine.add(job("more", [*examples, *[ipt.Example("x", "one more")] * 2]))


def test_every_label_takes_part_in_a_validation(engine: ipt.TuningEngine) -> None:
    examples = [ipt.Example(f"good {n} {turn}", f"label {n}") for turn in range(20) for n in range(20)] + [
        ipt.Example(f"bad {n} {turn}", f"rare {n}") for turn in range(4) for n in range(60)
    ]
    program = EncoderProgram(job("many", examples), engine.subspace, engine.backbone)  # type: ignore[arg-type]
    assert len(program.probe_rows) == VALIDATION_ROWS < len(program.train)
    assert set(program.classes[program.probe_rows].tolist()) == set(range(80))


def test_progress_is_reported_for_every_job_and_reaches_the_end(engine: ipt.TuningEngine) -> None:
    seen: list[ipt.Progress] = []
    engine.add(job("job", sentiment()), on_step=seen.append)
    while not engine.step()[0].done:
        pass
    assert seen[-1].done
    assert [p.phase for p in seen] == sorted((p.phase for p in seen), key=["preparing", "tuning", "finishing"].index)
    steps = [p.step for p in seen]
    assert steps == sorted(steps)
    assert all(p.steps == 12 for p in seen)


def test_tuning_lowers_the_loss_and_says_what_it_measured(engine: ipt.TuningEngine) -> None:
    losses: list[float] = []
    engine.add(
        job("job", sentiment(3), steps=24, batch_size=512, learning_rate=0.1),  # all rows in every step
        on_step=lambda progress: losses.append(progress.loss) if progress.loss is not None else None,
    )
    while not engine.step()[0].done:
        pass
    task = engine.finish("job")
    assert losses[-1] < 0.98 * losses[0]
    assert task.metrics["held_back"] == 6
    assert task.head.vector.dtype == np.float32
    assert {"score", "zero_vector_score", "baseline_score", "steps_run", "seconds"} <= set(task.metrics)


def test_without_enough_to_hold_back_the_score_is_leave_one_out(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    few = [ipt.Example(t, label) for t, label in (("good", "a"), ("great", "a"), ("bad", "b"), ("awful", "b"))]
    task = ipt.adapt(encoder, subspace, few, hyperparameters=ipt.Hyperparameters(steps=3))
    assert task.metrics["score_source"] == "leave_one_out"
    assert task.metrics["held_back"] == 0


def test_random_labels_are_answered_with_a_warning(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    """The same texts under both labels: nothing can beat the baseline."""
    texts = [example.input for example in sentiment()]
    noise = [ipt.Example(text, label) for text in texts for label in ("heads", "tails")]
    task = ipt.adapt(encoder, subspace, noise, hyperparameters=ipt.Hyperparameters(steps=4))
    names = ("score", "zero_vector_score", "baseline_score")
    score, zero, baseline = (float(task.metrics[name]) for name in names)  # type: ignore[arg-type]
    warned = any("the tuned task is" in warning for warning in task.warnings)
    assert warned == (score < baseline or score == baseline <= zero)


def test_tuning_starts_at_the_jobs_own_vectors_where_it_has_any(
    encoder: EncoderBackbone, subspace: ipt.Subspace
) -> None:
    start = np.full((1, 8), 0.25, dtype=np.float32)
    still = ipt.Hyperparameters(steps=0)
    assert (ipt.adapt(encoder, subspace, sentiment(), hyperparameters=still).head.vector == 0).all()
    own = ipt.adapt(encoder, subspace, sentiment(), hyperparameters=still, initial_vectors=start)
    assert (own.head.vector == start[0]).all()
    engine = ipt.TuningEngine(encoder, subspace)
    asked = replace(job("job", sentiment()), initial_vectors=start)
    engine.add(asked)
    while not engine.checkpoint("job"):
        engine.step()
    saved = engine.checkpoint("job")
    engine.remove("job")
    with pytest.raises(ipt.CheckpointError):
        engine.add(replace(asked, initial_vectors=start + 1), saved)
    engine.add(replace(asked, initial_vectors=start.copy()), saved)


@pytest.mark.parametrize("vectors", [np.zeros(8), np.zeros((0, 8)), np.zeros((1, 7)), np.full((1, 8), np.nan)])
def test_initial_vectors_of_another_shape_are_refused(
    encoder: EncoderBackbone, subspace: ipt.Subspace, vectors: NDArray[np.float32]
) -> None:
    with pytest.raises(ipt.IptError, match="initial_vectors"):
        ipt.adapt(encoder, subspace, sentiment(), initial_vectors=vectors)
