"""Plain prompt tuning through the same engine, and soft prompts on disk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import TextBackbone
from ipt.subspace.full_prompt_space import full_prompt_space, word_prompts
from ipt.subspace.soft_prompt_files import read_prompts, save_prompts
from tests.support.datasets import sentiment, topics
from tests.support.tiny import build_tiny_encoder

FEW = ipt.Hyperparameters(steps=3, batch_size=6, learning_rate=0.05)
P = 4

pytestmark = pytest.mark.usefixtures("keep_tuned")


def test_the_vector_is_the_prompt(encoder: EncoderBackbone) -> None:
    starts = torch.randn(2, P, encoder.hidden_size)
    space = full_prompt_space(encoder, P, starts)
    torch.testing.assert_close(space.decoder(space.initial_vectors), starts)
    assert space.intrinsic_dim == P * encoder.hidden_size


def test_prompts_that_stand_elsewhere_are_of_another_space(encoder: EncoderBackbone, tmp_path: Path) -> None:
    placed = encoder.placed("before_first_token")
    assert full_prompt_space(placed, P).id != full_prompt_space(encoder, P).id
    other = ipt.load_backbone(str(build_tiny_encoder(tmp_path / "other", seed=1)), device="cpu")
    assert isinstance(other, EncoderBackbone)
    assert full_prompt_space(other.placed("before_first_token"), P).id != full_prompt_space(placed, P).id
    assert full_prompt_space(placed.placed("after_first_token"), P).id == full_prompt_space(encoder, P).id
    save_prompts(tmp_path / "p.safetensors", {"a": torch.zeros(P, encoder.hidden_size)}, placed)
    assert set(read_prompts(tmp_path / "p.safetensors", placed)) == {"a"}
    with pytest.raises(ipt.CheckpointError, match="its prompts were tuned on"):
        read_prompts(tmp_path / "p.safetensors", encoder)


def test_whole_prompts_are_tuned_by_plain_gradient_steps(text: TextBackbone) -> None:
    """Against a plain loop: AdamW on the prompt alone, with the engine's schedule, clipping and averaging."""
    examples = [ipt.Example("hello", "good movie"), ipt.Example("world", "bad movie")] * 3
    space = full_prompt_space(text, P)
    asked = ipt.Hyperparameters(steps=1, batch_size=6, learning_rate=0.05)
    task = ipt.adapt(text, space, examples, validation_examples=examples, kind="text2text", hyperparameters=asked)
    prompt = space.initial_vectors.view(1, P, -1).clone().requires_grad_(True)
    inputs = text.tokenize([example.input for example in examples])
    targets = text.tokenize_targets([example.output for example in examples])
    loss = text.target_cross_entropy(inputs, targets, prompt.expand(len(inputs), -1, -1), label_smoothing=0.1).mean()
    (gradient,) = torch.autograd.grad(loss, prompt)
    clipped = gradient * min(1.0, 1.0 / float(gradient.norm()))
    # The first step of Adam moves every number by the rate, against the sign of its gradient; a tenth is averaged in.
    moved = prompt.detach() - 0.1 * 0.05 * clipped / (clipped.abs() + 1e-8)
    got = torch.from_numpy(task.head.vector).view(1, P, -1)
    assert not torch.equal(got, prompt.detach())
    torch.testing.assert_close(got, moved, atol=2e-4, rtol=0)


def test_whole_prompts_of_many_tasks_are_tuned_together_as_alone(encoder: EncoderBackbone) -> None:
    space = full_prompt_space(encoder, P)
    engine = ipt.TuningEngine(encoder, space)
    jobs = {"sentiment": sentiment(), "topics": topics()}
    for name, examples in jobs.items():
        engine.add(ipt.TuningJob(name, examples, "classification", hyperparameters=FEW))
    while not all(progress.done for progress in engine.step()):
        pass
    for name, examples in jobs.items():
        alone = ipt.adapt(encoder, space, examples, hyperparameters=FEW)
        together = engine.finish(name)
        torch.testing.assert_close(torch.from_numpy(together.head.vector), torch.from_numpy(alone.head.vector))
        assert ipt.Predictor(encoder, space).predict([(together.head, "good movie")])[0].label is not None


def test_tuning_goes_on_from_what_a_subspace_found(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    found = ipt.adapt(encoder, subspace, sentiment(), hyperparameters=FEW)
    prompt = subspace.decoder(torch.from_numpy(found.head.vector)[None])
    space = full_prompt_space(encoder, subspace.prompt_length, prompt)
    still = ipt.adapt(encoder, space, sentiment(), hyperparameters=ipt.Hyperparameters(steps=0))
    torch.testing.assert_close(torch.from_numpy(still.head.vector), prompt.flatten().float())
    assert still.metrics["score"] == found.metrics["score"]


def test_a_whole_prompt_means_nothing_in_a_subspace(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    task = ipt.adapt(encoder, full_prompt_space(encoder, P), sentiment(), hyperparameters=FEW)
    with pytest.raises(ipt.SubspaceMismatchError):
        ipt.Predictor(encoder, subspace).predict([(task.head, "good movie")])


def test_word_prompts_are_words_and_follow_the_seed(text: TextBackbone) -> None:
    prompts = word_prompts(text, P, seed=1, count=3)
    table = text.model.get_input_embeddings()(torch.arange(text.model.get_input_embeddings().num_embeddings))  # type: ignore[operator]
    words = {tuple(row) for row in table.tolist()}
    assert all(tuple(row) in words for row in prompts.flatten(0, 1).tolist())
    assert torch.equal(prompts, word_prompts(text, P, seed=1, count=3))
    assert not torch.equal(prompts, word_prompts(text, P, seed=2, count=3))


@pytest.mark.parametrize("shape", [(P, 32), (1, P + 1, 32), (1, P, 31)])
def test_starts_of_another_shape_are_refused(encoder: EncoderBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(ipt.SubspaceError, match="shape"):
        full_prompt_space(encoder, P, torch.zeros(shape))


def test_saved_prompts_are_read_back_for_the_same_backbone_alone(
    encoder: EncoderBackbone, text: TextBackbone, tmp_path: Path
) -> None:
    prompts = {"a/b": torch.randn(P, encoder.hidden_size), "ü": torch.randn(P + 1, encoder.hidden_size)}
    save_prompts(tmp_path / "new" / "prompts.safetensors", prompts, encoder)
    read = read_prompts(tmp_path / "new" / "prompts.safetensors", encoder)
    assert read.keys() == prompts.keys()
    assert all(torch.equal(read[name], prompts[name]) for name in prompts)
    with pytest.raises(ipt.CheckpointError, match="tuned on"):
        read_prompts(tmp_path / "new" / "prompts.safetensors", text)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "no prompt"),
        ({"x": torch.zeros(3)}, "no prompt"),
        ({"x": torch.zeros(3, 32, dtype=torch.int64)}, "no prompt"),
        ({"x": torch.full((3, 32), torch.nan)}, "finite"),
        ({"x": torch.zeros(3, 31)}, "hidden size"),
    ],
)
def test_files_of_something_else_are_refused(
    encoder: EncoderBackbone, tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
) -> None:
    save_file(tensors, tmp_path / "prompts.safetensors")
    with pytest.raises(ipt.CheckpointError, match=said):
        read_prompts(tmp_path / "prompts.safetensors", encoder)


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "prompts.safetensors").write_bytes(b"junk")
    for name in ("prompts.safetensors", "none.safetensors"):
        with pytest.raises(ipt.CheckpointError, match=name):
            read_prompts(tmp_path / name)
