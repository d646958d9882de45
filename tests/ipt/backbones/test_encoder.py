"""The encoder family on tiny models of each supported type."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ipt.backbones.encoder import EncoderBackbone, Pooling
from ipt.backbones.interface import EncoderPlacement
from ipt.backbones.loading import load_backbone
from ipt.errors import BackboneError

TEXTS = ["hello world", "the cat sat on the mat and the dog was not happy with it at all", "i love my phone", "me"]


def stock_embedding(backbone: EncoderBackbone, row: list[int]) -> Tensor:
    """Return the sentence embedding [H] of a single row, from the transformers model only."""
    model: Any = backbone.model
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([row])).last_hidden_state[0]
    return normalize(hidden.mean(dim=0), dim=0)


def random_prompts(backbone: EncoderBackbone, rows: int, length: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, backbone.hidden_size, generator=generator)


def test_without_a_prompt_the_embedding_is_the_stock_models(encoder: EncoderBackbone) -> None:
    rows = encoder.tokenize(TEXTS)
    stock = torch.stack([stock_embedding(encoder, row) for row in rows])
    torch.testing.assert_close(encoder.embed(rows), stock, atol=1e-5, rtol=0)


def test_a_zero_length_prompt_changes_nothing(encoder: EncoderBackbone) -> None:
    rows = encoder.tokenize(TEXTS)
    assert torch.equal(encoder.embed(rows, random_prompts(encoder, len(rows), 0)), encoder.embed(rows))


def test_the_default_backbone_is_the_stock_sentence_encoder() -> None:
    backbone = load_backbone("default", device="cpu")
    assert isinstance(backbone, EncoderBackbone)
    rows = backbone.tokenize(TEXTS)
    stock = torch.stack([stock_embedding(backbone, row) for row in rows])
    torch.testing.assert_close(backbone.embed(rows), stock, atol=1e-5, rtol=0)
    assert (backbone.hidden_size, backbone.max_positions, backbone.max_tokens) == (384, 512, 256)


def test_the_code_path_of_a_gpu_equals_that_of_a_cpu(encoder: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last row fills all positions, so it is cut beside a prompt.
    rows = encoder.tokenize([*TEXTS, "hello " * 200])
    assert len(rows[-1]) == encoder.max_positions
    prompts = random_prompts(encoder, len(rows)).requires_grad_()

    def embeddings_and_gradient() -> list[Tensor]:
        both = encoder._embed([*rows, *rows], torch.cat([prompts, prompts]), [True] * len(rows) + [False] * len(rows))
        plain = encoder.embed(rows)
        return [both, plain, *torch.autograd.grad(both[: len(rows)].sum(), prompts)]

    expected = embeddings_and_gradient()
    monkeypatch.setattr(encoder, "_can_inspect", lambda _: False)
    for gpu, cpu in zip(embeddings_and_gradient(), expected, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("one_bucket")
def test_padding_changes_nothing(encoder: EncoderBackbone) -> None:
    rows = encoder.tokenize(TEXTS)
    prompts = random_prompts(encoder, len(rows))
    single = torch.cat([encoder.embed([row], prompts[[i]]) for i, row in enumerate(rows)])
    torch.testing.assert_close(encoder.embed(rows, prompts), single, atol=1e-5, rtol=0)


def test_embeddings_are_in_the_order_of_the_rows(encoder: EncoderBackbone) -> None:
    rows = encoder.tokenize(["good " * (7 * i % 23 + 1) for i in range(30)])
    prompts = random_prompts(encoder, len(rows))
    single = torch.cat([encoder.embed([row], prompts[[i]]) for i, row in enumerate(rows)])
    torch.testing.assert_close(encoder.embed(rows, prompts), single, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("one_bucket")
def test_a_row_does_not_depend_on_its_neighbours_prompts(encoder: EncoderBackbone) -> None:
    rows = encoder.tokenize(TEXTS)
    prompts = random_prompts(encoder, len(rows)).requires_grad_()
    others = random_prompts(encoder, len(rows), seed=1)
    others[0] = prompts[0].detach()
    embedded = encoder.embed(rows, prompts)
    torch.testing.assert_close(encoder.embed(rows, others)[0], embedded[0], atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(embedded[0].square().sum() + embedded[0, 0], prompts)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


@pytest.mark.parametrize(
    ("placement", "at"), [("after_first_token", 1), ("before_first_token", 0), ("after_last_token", 6)]
)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_prompt_is_read_at_its_placement_and_left_out_of_the_pooling(
    placement: EncoderPlacement, at: int, pooling: Pooling, encoder: EncoderBackbone
) -> None:
    model: Any = encoder.model
    backbone = EncoderBackbone(model, encoder.tokenizer, encoder.identity, pooling=pooling).placed(placement)
    [row] = encoder.tokenize(["the dog was happy"])
    words = encoder.tokenize(["red blue green"])[0][1:-1]
    assert len(row) == 6
    with torch.no_grad():
        prompt = encoder.input_embeddings(torch.tensor([words]))
        hidden = model(input_ids=torch.tensor([[*row[:at], *words, *row[at:]]])).last_hidden_state[0]
    of_text = torch.cat([hidden[:at], hidden[at + len(words) :]])
    expected = normalize(of_text[0] if pooling == "cls" else of_text.mean(dim=0), dim=0)
    torch.testing.assert_close(backbone.embed([row], prompt)[0], expected, atol=1e-5, rtol=0)
    # In a batch with a longer row, and with a row that is read without its prompt.
    rows = [*encoder.tokenize(["hello " * 12]), row, row]
    batch = backbone._embed(rows, prompt.expand(3, -1, -1), [True, True, False])
    torch.testing.assert_close(batch[1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch[2], backbone.embed([row])[0], atol=1e-5, rtol=0)


def test_an_unknown_prompt_placement_is_rejected_with_the_known_ones(encoder: EncoderBackbone) -> None:
    known = "after_first_token, before_first_token, after_last_token, every_layer"
    with pytest.raises(BackboneError, match=f"'middle'; expected one of: {known}"):
        encoder.placed("middle")


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[1:2], ["hello " * 100], TEXTS, []])
def test_embed_both_equals_two_calls_of_embed(encoder: EncoderBackbone, texts: list[str]) -> None:
    rows = encoder.tokenize(texts)
    prompts = random_prompts(encoder, len(rows))
    prompted, plain = encoder.embed_both(rows, prompts)
    torch.testing.assert_close(prompted, encoder.embed(rows, prompts), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain, encoder.embed(rows), atol=1e-5, rtol=0)
    assert not texts or not torch.allclose(prompted, plain, atol=1e-2)


def test_embed_both_runs_a_short_row_in_one_forward_pass(encoder: EncoderBackbone) -> None:
    passes: list[int] = []
    hook = encoder.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        encoder.embed_both(encoder.tokenize(TEXTS[:1]), random_prompts(encoder, 1))
    finally:
        hook.remove()
    assert len(passes) == 1


def test_embeddings_have_unit_length_and_float32(encoder: EncoderBackbone) -> None:
    rows = encoder.tokenize(TEXTS)
    embedded = encoder.embed(rows, random_prompts(encoder, len(rows)).double())
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(rows)))


def test_an_empty_batch_has_no_embeddings(encoder: EncoderBackbone) -> None:
    assert encoder.tokenize([]) == []
    assert encoder.embed([]).shape == (0, 32)


def test_texts_are_cut_to_max_tokens_before_their_last_token(encoder: EncoderBackbone) -> None:
    whole, cut = encoder.tokenize(["good " * 100])[0], encoder.tokenize(["good " * 100], max_tokens=10)[0]
    assert len(whole) == encoder.max_tokens == 64
    assert len(cut) == 10
    assert cut[-1] == whole[-1] != cut[-2]


def test_a_text_is_cut_to_fit_beside_its_prompt(encoder: EncoderBackbone) -> None:
    row = encoder.tokenize(["good " * 100])[0]
    prompts = random_prompts(encoder, 1, 20)
    shorter = [*row[:43], row[-1]]
    assert torch.equal(encoder.embed([row], prompts), encoder.embed([shorter], prompts))


def test_a_prompt_that_leaves_no_room_for_text_is_rejected(encoder: EncoderBackbone) -> None:
    with pytest.raises(BackboneError, match="leaves no room for text"):
        encoder.embed(encoder.tokenize(["hello"]), random_prompts(encoder, 1, 63))


@pytest.mark.parametrize("shape", [(3, 5, 32), (2, 5, 31), (5, 32)])
def test_prompts_of_another_shape_are_rejected(encoder: EncoderBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(BackboneError, match=r"expected \[2, P, 32\]"):
        encoder.embed(encoder.tokenize(["a", "b"]), torch.zeros(shape))


def test_a_row_without_tokens_is_rejected(encoder: EncoderBackbone) -> None:
    with pytest.raises(BackboneError, match="row 1 has no tokens"):
        encoder.embed([[1], []])


def test_cls_pooling_takes_the_first_position(tiny_folder: Callable[[str], Path]) -> None:
    loaded = load_backbone(str(tiny_folder("bert")), device="cpu")
    assert isinstance(loaded, EncoderBackbone)
    backbone = EncoderBackbone(loaded.model, loaded.tokenizer, loaded.identity, pooling="cls")
    rows = backbone.tokenize(TEXTS)
    model: Any = backbone.model
    stock = [model(input_ids=torch.tensor([row])).last_hidden_state[0, 0] for row in rows]
    torch.testing.assert_close(backbone.embed(rows), normalize(torch.stack(stock), dim=1), atol=1e-5, rtol=0)
