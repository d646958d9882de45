"""A subspace of prompts in layers: found, saved, tuned in and answered from on the backbone as it was loaded."""

from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.data.task_dataset import TaskDataset
from ipt.errors import BackboneError
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.subspace.full_prompt_space import full_prompt_space, word_prompts
from ipt.tuning.work_runner import WorkRunner
from ipt.tuning.work_units import NO_PROMPT, Forward
from tests.support.datasets import sentiment, topics

POSITIONS = 2
EXAMPLES = sentiment(4)
HYPERPARAMETERS = ipt.Hyperparameters(steps=12, learning_rate=0.3, batch_size=8)


def fit(encoder: EncoderBackbone, prompt_length: int) -> DirectFit:
    options = FitOptions(
        intrinsic_dim=6,
        decoder_hidden=12,
        prompt_length=prompt_length,
        steps=12,
        tasks_per_step=2,
        rows_per_task=8,
        warmup_steps=3,
    )
    tasks = [
        TaskDataset(name, name[:1], tuple(examples), ())
        for name, examples in (("a1", sentiment(4)), ("a2", sentiment(3)), ("b1", topics() * 2))
    ]
    return DirectFit(prepare_tasks(encoder, tasks, options), options)


@pytest.fixture(scope="module", params=["every_layer", "upper_layers"])
def placed(encoder: EncoderBackbone, request: pytest.FixtureRequest) -> EncoderBackbone:
    return encoder.placed(request.param)


@pytest.fixture(scope="module")
def folder(placed: EncoderBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in_layers") / "subspace"
    running = fit(placed, placed.prompt_rows(POSITIONS))
    start = running.decoder.project.bias.detach().clone()
    running.run_in(folder, lambda *_: None)
    assert not torch.equal(running.decoder.project.bias, start)
    return folder


def test_a_fit_starts_at_keys_and_values_of_words(placed: EncoderBackbone) -> None:
    length = placed.prompt_rows(POSITIONS)
    decoder = fit(placed, length).decoder
    parts = decoder.project.bias.detach().view(2 * placed.prompted_layers, -1)
    words = word_prompts(placed, length, seed=1).view(2 * placed.prompted_layers, -1)
    ratio = parts.std(dim=1) / words.std(dim=1)
    assert ratio.min() > 0.5
    assert ratio.max() < 2
    # Each layer's keys, and its values, vary with the vector in proportion to how those of words differ.
    spread = decoder.project.weight.detach().view(2 * placed.prompted_layers, -1).std(dim=1)
    assert torch.allclose(spread / parts.std(dim=1), (spread / parts.std(dim=1)).mean(), rtol=0.2)


def test_a_length_that_does_not_fill_the_layers_is_rejected_before_the_fit(placed: EncoderBackbone) -> None:
    with pytest.raises(BackboneError, match="multiple of"):
        fit(placed, 3)


def test_a_task_is_tuned_and_answered_on_the_backbone_as_it_was_loaded(
    encoder: EncoderBackbone, placed: EncoderBackbone, folder: Path, keep_tuned: None
) -> None:
    subspace = ipt.load_subspace(folder, encoder)
    assert subspace.manifest["prompt_placement"] == placed.prompt_placement
    task = ipt.adapt(encoder, subspace, EXAMPLES, hyperparameters=HYPERPARAMETERS)
    assert task.moved_from(subspace.initial_vectors.numpy()[0])
    again = ipt.adapt(placed, subspace, EXAMPLES, hyperparameters=HYPERPARAMETERS)
    assert (again.head.vector == task.head.vector).all()
    texts = [example.input for example in EXAMPLES]
    answers = ipt.Predictor(encoder, subspace).predict([(task.head, text) for text in texts])
    correct = sum(answer.label == example.output for answer, example in zip(answers, EXAMPLES, strict=True))
    assert correct > 0.6 * len(EXAMPLES)  # of a tiny model with random weights


def test_whole_prefixes_are_tuned_as_whole_prompts_are(
    encoder: EncoderBackbone, placed: EncoderBackbone, keep_tuned: None
) -> None:
    space = full_prompt_space(placed, placed.prompt_rows(POSITIONS))
    task = ipt.adapt(encoder, space, EXAMPLES, hyperparameters=HYPERPARAMETERS)
    assert task.head.vector.shape == (placed.prompt_rows(POSITIONS) * placed.hidden_size,)
    assert task.moved_from(space.initial_vectors.numpy()[0])


def test_prompts_in_layers_leave_the_tokens_of_a_unit_of_work_to_the_texts(
    encoder: EncoderBackbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipt.tuning.row_embeddings.FORWARD_TOKENS", 40)
    subspace = ipt.load_subspace(folder, encoder)
    job = ipt.TuningJob("a", EXAMPLES, "classification", hyperparameters=ipt.Hyperparameters(steps=0))
    tokens_of_units: list[int] = []
    forward = WorkRunner.forward

    def record(self: WorkRunner, works: list[Forward]) -> list[torch.Tensor]:
        tokens_of_units.extend(sum(map(len, work.inputs)) for work in works if NO_PROMPT not in work.lanes)
        return forward(self, works)

    monkeypatch.setattr(WorkRunner, "forward", record)
    engine = ipt.TuningEngine(encoder, subspace)
    engine.add(job)
    while not engine.step()[0].done:
        pass
    longest = max(map(len, encoder.tokenize([example.input for example in EXAMPLES])))
    assert 40 - longest < max(tokens_of_units) <= 40
