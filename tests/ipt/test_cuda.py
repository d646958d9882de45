"""Results on a GPU equal those on a CPU, and a gradient step never waits for the GPU. Skipped without a GPU."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import PLACEMENTS, Backbone, EncoderPlacement, TextBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.tuning.work_units import GradientStep
from tests.support.datasets import sentiment, topics
from tests.support.generation import INPUTS, make_request, run, texts
from tests.support.tiny import build_tiny_encoder, build_tiny_text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

DEVICES = ("cpu", "cuda")
ENCODERS = ("bert", "distilbert", "mpnet", "roberta")
TEXT = ("bart", "t5", "gpt2", "llama", "qwen2", "qwen3")
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path | None]]:
    """Return the folder of a tiny backbone, and that of its subspace if it is a text backbone."""
    built: dict[str, tuple[Path, Path | None]] = {}

    def folder(kind: str) -> tuple[Path, Path | None]:
        if kind not in built:
            place = tmp_path_factory.mktemp(kind)
            encoder = kind in ENCODERS
            built[kind] = (build_tiny_encoder(place, kind), None) if encoder else build_tiny_text(place, kind)
        return built[kind]

    return folder


@pytest.fixture(autouse=True)
def on_both(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the same length buckets on both devices."""
    monkeypatch.setattr("ipt.backbones.batching.DEVICE_BUCKETS", (8192, 0.1))
    monkeypatch.setattr("ipt.backbones.batching.LAUNCH_BOUND", 32 * 32**2)
    yield
    torch.cuda.synchronize()  # so that an error of this test does not surface in the next one


def loaded(place: Path, device: str) -> Backbone:
    return ipt.load_backbone(str(place), device=device, dtype=torch.float32)


def engines(subspace_dir: Path, place: Path) -> dict[str, ipt.TuningEngine]:
    backbones = {device: loaded(place, device) for device in DEVICES}
    return {name: ipt.TuningEngine(each, ipt.load_subspace(subspace_dir, each)) for name, each in backbones.items()}


def tuned(engine: ipt.TuningEngine, jobs: list[ipt.TuningJob]) -> dict[str, ipt.AdaptedTask]:
    for each in jobs:
        engine.add(each)
    while not all(report.done for report in engine.step()):
        pass
    return {name: engine.finish(name) for name in engine.job_ids}


def jobs() -> list[ipt.TuningJob]:
    few = ipt.Hyperparameters(steps=8, batch_size=8, learning_rate=0.02)
    return [
        ipt.TuningJob("two", sentiment(), "classification", hyperparameters=few),
        ipt.TuningJob("three", topics(), "classification", hyperparameters=replace(few, restarts=2, seed=3)),
    ]


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_embeddings(kind: str, dtype: torch.dtype, tolerance: float, folder: Any) -> None:
    place, _ = folder(kind)
    prompts = 0.3 * torch.randn(len(INPUTS), 4, 32, generator=torch.Generator().manual_seed(0))
    embeddings: list[torch.Tensor] = []
    for device, precision in (("cpu", torch.float32), ("cuda", dtype)):
        backbone = ipt.load_backbone(str(place), device=device, dtype=precision)
        assert isinstance(backbone, EncoderBackbone)
        with torch.inference_mode():
            both = backbone.embed_both(backbone.tokenize(INPUTS), prompts.to(device))
        embeddings.append(torch.cat(both).float().cpu())
    assert float((embeddings[0] - embeddings[1]).norm(dim=1).max()) < tolerance


def test_jobs_that_share_an_engine_give_equal_tasks_and_predictions(subspace_dir: Path, folder: Any) -> None:
    place, _ = folder("bert")
    both = engines(subspace_dir, place)
    tasks = {device: tuned(engine, jobs()) for device, engine in both.items()}
    alone = tuned(both["cuda"], jobs()[:1])["two"]
    np.testing.assert_allclose(alone.head.vector, tasks["cuda"]["two"].head.vector, **CLOSE)
    for name, task in tasks["cpu"].items():
        other = tasks["cuda"][name]
        np.testing.assert_allclose(other.head.vector, task.head.vector, **CLOSE)
        assert other.metrics["steps_run"] == task.metrics["steps_run"]
        assert other.metrics["score"] == task.metrics["score"]
    rows = [(task.head, text) for task in tasks["cpu"].values() for text in INPUTS]
    answers = [ipt.Predictor(engine.backbone, engine.subspace).predict(rows) for engine in both.values()]
    for one, other in zip(*answers, strict=True):
        assert one.label == other.label
        np.testing.assert_allclose(list(one.scores.values()), list(other.scores.values()), **CLOSE)


def test_a_gradient_step_does_not_wait_for_the_gpu(subspace_dir: Path, folder: Any) -> None:
    place, _ = folder("bert")
    engine = engines(subspace_dir, place)["cuda"]
    long = ipt.Hyperparameters(steps=1000, batch_size=8)
    engine.add(ipt.TuningJob("a", sentiment(), "classification", hyperparameters=long))
    while any(report.step < 12 for report in engine.step()):  # graphs are captured by then
        pass
    assert all(isinstance(job.work, GradientStep) for job in engine._jobs.values())
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def graphed(folder: Any, monkeypatch: pytest.MonkeyPatch) -> EncoderBackbone:
    """Return a backbone that may capture every pass as a graph."""
    monkeypatch.setattr("ipt.backbones.batching.LAUNCH_BOUND", 10_000 * 32**2)
    place, _ = folder("bert")
    backbone = loaded(place, "cuda")
    assert isinstance(backbone, EncoderBackbone)
    return backbone


def draw_prompts(rows: int, seed: int) -> torch.Tensor:
    return (0.3 * torch.randn(rows, 4, 32, generator=torch.Generator().manual_seed(seed))).cuda()


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind != "mpnet"])
@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS["encoder"])
def test_a_graph_equals_separate_launches(
    kind: str, prompted: bool, placement: EncoderPlacement, folder: Any, graphed: object
) -> None:
    place, _ = folder(kind)
    loaded_backbone = loaded(place, "cuda")
    assert isinstance(loaded_backbone, EncoderBackbone)
    backbone = loaded_backbone.placed(placement)
    graphs = backbone._graphs
    assert graphs is not None
    for turn in range(40):
        rows = backbone.tokenize([f"{text} {'good ' * (turn % 3)}" for text in INPUTS[: 3 + turn % 2]])
        prompts = draw_prompts(len(rows), turn) if prompted else None
        with torch.inference_mode():
            replayed = backbone.embed(rows, prompts)
            backbone._graphs = None
            launched = backbone.embed(rows, prompts)
        backbone._graphs = graphs
        torch.testing.assert_close(replayed, launched, atol=1e-5, rtol=1e-4)
    assert graphs._graphs


def test_a_graph_backpropagates_to_the_prompts(graphed: EncoderBackbone) -> None:
    graphs = graphed._graphs
    assert graphs is not None
    rows = graphed.tokenize(INPUTS)
    for turn in range(6):
        # Two forward passes before either backward pass: the second must not overwrite the first.
        inputs = [draw_prompts(len(rows), 10 * turn + number).requires_grad_() for number in range(2)]
        weights = torch.randn(2, len(rows), 32, generator=torch.Generator().manual_seed(turn)).cuda()

        def gradients() -> tuple[torch.Tensor, ...]:
            embedded = torch.stack([graphed.embed(rows, prompts) for prompts in inputs])  # noqa: B023
            return torch.autograd.grad((embedded * weights).sum(), inputs)  # noqa: B023

        replayed = gradients()
        graphed._graphs = None
        launched = gradients()
        graphed._graphs = graphs
        for one, other in zip(replayed, launched, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    [graph] = graphs._graphs.values()
    assert not graph.in_use
    embedding = graphed.embed(rows, draw_prompts(len(rows), 0).requires_grad_())
    assert graph.in_use
    del embedding
    assert not graph.in_use


@pytest.mark.parametrize("kind", TEXT)
def test_text_tasks(kind: str, folder: Any) -> None:
    place, subspace_dir = folder(kind)
    both = engines(subspace_dir, place)
    short = ipt.Hyperparameters(steps=6, batch_size=4, learning_rate=0.02)
    job = ipt.TuningJob("a", sentiment(), "classification", hyperparameters=short)
    tasks = {device: tuned(engine, [job])["a"] for device, engine in both.items()}
    np.testing.assert_allclose(tasks["cuda"].head.vector, tasks["cpu"].head.vector, **CLOSE)
    rows = [(tasks["cpu"].head, text) for text in INPUTS]
    answers = [ipt.Predictor(engine.backbone, engine.subspace).predict(rows) for engine in both.values()]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(list(one.scores.values()), list(other.scores.values()), **CLOSE)


PARAMETERS = (
    {},
    {"temperature": 1.0, "seed": 4, "top_p": 0.9},
    {"temperature": 1.0, "seed": 5, "top_k": 4},
    {"num_beams": 3},
)


@pytest.mark.parametrize("kind", TEXT)
def test_generated_texts(kind: str, folder: Any) -> None:
    place, subspace_dir = folder(kind)
    texts_of_device = []
    for device in DEVICES:
        backbone = loaded(place, device)
        assert isinstance(backbone, TextBackbone)
        engine = ipt.GenerationEngine(backbone, ipt.load_subspace(subspace_dir, backbone))
        requests = [
            make_request(engine, number, **{"max_new_tokens": 8, **PARAMETERS[number % len(PARAMETERS)]})
            for number in range(8)
        ]
        texts_of_device.append(texts(run(engine, requests)))
    assert texts_of_device[0] == texts_of_device[1]
    assert len(set(texts_of_device[0].values())) > 3


@pytest.mark.parametrize("kind", ["bert", "bart", "gpt2"])
def test_a_fit(kind: str, folder: Any) -> None:
    options = FitOptions(
        intrinsic_dim=6, decoder_hidden=12, prompt_length=3, steps=6, tasks_per_step=2, rows_per_task=8, warmup_steps=3
    )
    tasks = [
        TaskDataset(name, name[:1], tuple(rows), ()) for name, rows in (("a1", sentiment(4)), ("b1", topics() * 2))
    ]
    place, _ = folder(kind)
    learned = []
    for device in DEVICES:
        fit = DirectFit(prepare_tasks(loaded(place, device), tasks, options), options)
        while not fit.done:
            fit.step()
        learned.append({name: value.detach().cpu() for name, value in fit._learned().items()})
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, **CLOSE, msg=name)


def test_out_of_memory_makes_predictions_take_smaller_passes(subspace_dir: Path, folder: Any) -> None:
    place, _ = folder("bert")
    engine = engines(subspace_dir, place)["cuda"]
    head = tuned(engine, jobs()[:1])["two"].head
    predictor = ipt.Predictor(engine.backbone, engine.subspace)
    rows = [(head, text) for text in INPUTS * 512]
    expected = predictor.predict(rows)
    initial_limit = predictor.max_positions
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 6 * 2**20) / total)
    try:
        predictions = predictor.predict(rows)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert predictor.max_positions < initial_limit
    assert [prediction.label for prediction in predictions] == [prediction.label for prediction in expected]
