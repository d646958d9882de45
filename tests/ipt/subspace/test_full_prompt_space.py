"""Plain prompt tuning with the tuning engine, and files of soft prompts."""

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


def test_prompts_in_another_placement_belong_to_another_space(encoder: EncoderBackbone, tmp_path: Path) -> None:
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
    """Compare with a plain loop: AdamW on the prompt only, with the engine's schedule, clipping and averaging."""
    examples = [ipt.Example("hello", "good movie"), ipt.Example("world", "bad movie")] * 3
    space = full_prompt_space(text, P)
    one_step = ipt.Hyperparameters(steps=1, batch_size=6, learning_rate=0.05)
    task = ipt.adapt(text, space, examples, validation_examples=examples, kind="text2text", hyperparameters=one_step)
    prompt = space.initial_vectors.view(1, P, -1).clone().requires_grad_(True)
    inputs = text.tokenize([example.input for example in examples])
    targets = text.tokenize_targets([example.output for example in examples])
    loss = text.target_cross_entropy(inputs, targets, prompt.expand(len(inputs), -1, -1), label_smoothing=0.1).mean()
    (gradient,) = torch.autograd.grad(loss, prompt)
    clipped = gradient * min(1.0, 1.0 / float(gradient.norm()))
    # Adam's first step moves each number by the learning rate, against its gradient; averaging takes a tenth of it.
    expected = prompt.detach() - 0.1 * 0.05 * clipped / (clipped.abs() + 1e-8)
    tuned = torch.from_numpy(task.head.vector).view(1, P, -1)
    assert not torch.equal(tuned, prompt.detach())
    torch.testing.assert_close(tuned, expected, atol=2e-4, rtol=0)


def test_whole_prompts_of_several_tasks_tuned_together_equal_those_tuned_separately(encoder: EncoderBackbone) -> None:
    space = full_prompt_space(encoder, P)
    engine = ipt.TuningEngine(encoder, space)
    jobs = {"sentiment": sentiment(), "topics": topics()}
    for name, examples in jobs.items():
        engine.add(ipt.TuningJob(name, examples, "classification", hyperparameters=FEW))
    while not all(progress.done for progress in engine.step()):
        pass
    for name, examples in jobs.items():
        separate = ipt.adapt(encoder, space, examples, hyperparameters=FEW)
        together = engine.finish(name)
        torch.testing.assert_close(torch.from_numpy(together.head.vector), torch.from_numpy(separate.head.vector))
        assert ipt.Predictor(encoder, space).predict([(together.head, "good movie")])[0].label is not None


def test_tuning_starts_from_a_prompt_found_in_a_subspace(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    in_subspace = ipt.adapt(encoder, subspace, sentiment(), hyperparameters=FEW)
    prompt = subspace.decoder(torch.from_numpy(in_subspace.head.vector)[None])
    space = full_prompt_space(encoder, subspace.prompt_length, prompt)
    untuned = ipt.adapt(encoder, space, sentiment(), hyperparameters=ipt.Hyperparameters(steps=0))
    torch.testing.assert_close(torch.from_numpy(untuned.head.vector), prompt.flatten().float())
    assert untuned.metrics["score"] == in_subspace.metrics["score"]


def test_a_whole_prompt_is_rejected_in_a_subspace(encoder: EncoderBackbone, subspace: ipt.Subspace) -> None:
    task = ipt.adapt(encoder, full_prompt_space(encoder, P), sentiment(), hyperparameters=FEW)
    with pytest.raises(ipt.SubspaceMismatchError):
        ipt.Predictor(encoder, subspace).predict([(task.head, "good movie")])


def test_word_prompts_are_words_and_follow_the_seed(text: TextBackbone) -> None:
    prompts = word_prompts(text, P, seed=1, count=3)
    table = text.input_embeddings(torch.arange(text.input_embeddings.num_embeddings))
    words = {tuple(row) for row in table.tolist()}
    assert all(tuple(row) in words for row in prompts.flatten(0, 1).tolist())
    assert torch.equal(prompts, word_prompts(text, P, seed=1, count=3))
    assert not torch.equal(prompts, word_prompts(text, P, seed=2, count=3))


@pytest.mark.parametrize("shape", [(P, 32), (1, P + 1, 32), (1, P, 31)])
def test_starts_of_another_shape_are_rejected(encoder: EncoderBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(ipt.SubspaceError, match="shape"):
        full_prompt_space(encoder, P, torch.zeros(shape))


def test_saved_prompts_are_read_only_for_their_own_backbone(
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
    ("tensors", "message"),
    [
        ({}, "no prompt"),
        ({"x": torch.zeros(3)}, "x is not a prompt"),
        ({"x": torch.zeros(3, 32, dtype=torch.int64)}, "x is not a prompt"),
        ({"x": torch.full((3, 32), torch.nan)}, "finite"),
        ({"x": torch.zeros(3, 31)}, "hidden size"),
    ],
)
def test_tensors_that_are_not_prompts_are_rejected(
    encoder: EncoderBackbone, tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "prompts.safetensors")
    with pytest.raises(ipt.CheckpointError, match=message):
        read_prompts(tmp_path / "prompts.safetensors", encoder)


def test_a_missing_or_damaged_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "prompts.safetensors").write_bytes(b"junk")
    for name in ("prompts.safetensors", "none.safetensors"):
        with pytest.raises(ipt.CheckpointError, match=name):
            read_prompts(tmp_path / name)
