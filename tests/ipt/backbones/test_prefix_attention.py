"""Prompts in the layers: keys and values that all positions attend to, and that take no position themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ipt.backbones.encoder import EncoderBackbone
from ipt.errors import BackboneError

POSITIONS = 3


def model_type(backbone: EncoderBackbone) -> str:
    model: Any = backbone.model
    return str(model.config.model_type)


@pytest.fixture(params=["every_layer", "upper_layers"])
def prefixed(encoder: EncoderBackbone, request: pytest.FixtureRequest) -> EncoderBackbone:
    if model_type(encoder) == "mpnet":
        pytest.skip("MPNet has no SDPA attention")
    return encoder.placed(request.param)


def prefixes(backbone: EncoderBackbone, rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2 * backbone.prompted_layers * POSITIONS, backbone.hidden_size, generator=generator)


def test_every_prompted_layer_attends_to_its_own_keys_and_values(prefixed: EncoderBackbone) -> None:
    """Compare with the same attention written out: keys and values are put in front where the layer makes its own."""
    if model_type(prefixed) not in ("bert", "roberta", "xlm-roberta"):
        pytest.skip("the written-out layer is BERT's")
    model: Any = prefixed.model
    [row] = prefixed.tokenize(["the dog was happy"])
    prompts = prefixes(prefixed, 1)
    none = torch.empty(2, 0, prefixed.hidden_size)
    layers = [none] * (prefixed.layer_count - prefixed.prompted_layers)
    layers += prompts.view(prefixed.prompted_layers, 2, POSITIONS, prefixed.hidden_size).unbind()
    with torch.no_grad():
        states = model.embeddings(input_ids=torch.tensor([row]))[0]
        for layer, (keys, values) in zip(model.encoder.layer, layers, strict=True):
            attention = layer.attention.self
            heads, size = attention.num_attention_heads, attention.attention_head_size
            query, key, value = (
                part.view(-1, heads, size).transpose(0, 1)
                for part in (
                    attention.query(states),
                    torch.cat([keys, attention.key(states)]),
                    torch.cat([values, attention.value(states)]),
                )
            )
            weights = (query @ key.mT / size**0.5).softmax(dim=-1)
            attended = (weights @ value).transpose(0, 1).flatten(1)
            attended = layer.attention.output(attended, states)
            states = layer.output(layer.intermediate(attended), attended)
    expected = normalize(states.mean(dim=0), dim=0)
    torch.testing.assert_close(prefixed.embed([row], prompts)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("one_bucket")
def test_padding_and_neighbours_change_nothing(prefixed: EncoderBackbone) -> None:
    rows = prefixed.tokenize(["hello " * 12, "the dog was happy", "good movie"])
    prompts = prefixes(prefixed, len(rows)).requires_grad_()
    single = torch.cat([prefixed.embed([row], prompts[[i]]) for i, row in enumerate(rows)])
    embedded = prefixed.embed(rows, prompts)
    torch.testing.assert_close(embedded, single, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(embedded[0, 0], prompts)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_rows_with_and_without_a_prompt_share_a_pass(
    prefixed: EncoderBackbone, encoder: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prefixed.tokenize(["the dog was happy", "good movie", "hello world"])
    prompts = prefixes(prefixed, len(rows))
    for inspects in (True, False):
        monkeypatch.setattr(EncoderBackbone, "_can_inspect", staticmethod(lambda _, inspects=inspects: inspects))
        mixed = prefixed._embed(rows, prompts, [True, False, True])
        torch.testing.assert_close(mixed[0], prefixed.embed(rows[:1], prompts[:1])[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(mixed[1], encoder.embed(rows[1:2])[0], atol=1e-5, rtol=0)
        assert not torch.allclose(mixed[0], encoder.embed(rows[:1])[0], atol=1e-3)


def test_a_prefix_takes_no_position_of_the_input(prefixed: EncoderBackbone) -> None:
    [row] = prefixed.tokenize(["good " * 100])
    assert len(row) == prefixed.max_positions
    assert prefixed.max_input_tokens(2 * prefixed.prompted_layers * POSITIONS) == prefixed.max_tokens
    other = [*row[:-2], row[1] + 1, row[-1]]
    prompts = prefixes(prefixed, 1)
    assert not torch.equal(prefixed.embed([row], prompts), prefixed.embed([other], prompts))


def test_prompts_of_tokens_are_the_keys_and_values_that_the_tokens_have(prefixed: EncoderBackbone) -> None:
    model: Any = prefixed.model
    ids = torch.tensor([[7, 8, 9], [9, 10, 11]])
    prompts = prefixed.prompts_of_tokens(ids)
    assert prompts.shape == (2, 2 * prefixed.prompted_layers * 3, prefixed.hidden_size)
    if model.config.model_type == "bert":
        first = prefixed.layer_count - prefixed.prompted_layers
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[first]
        attention = model.encoder.layer[first].attention.self
        keys_and_values = torch.stack([attention.key(states), attention.value(states)], dim=1)
        torch.testing.assert_close(prompts[:, :6].view(2, 2, 3, -1), keys_and_values, atol=1e-5, rtol=0)


def test_a_length_that_is_no_multiple_of_the_layers_is_rejected(prefixed: EncoderBackbone) -> None:
    rows = 2 * prefixed.prompted_layers
    prefixed.check_room(3 * rows)
    with pytest.raises(BackboneError, match=f"must be a multiple of {rows}, got {rows + 1}"):
        prefixed.check_room(rows + 1)


def test_prompts_that_do_not_fill_the_layers_are_rejected(prefixed: EncoderBackbone) -> None:
    with pytest.raises(BackboneError, match="must be a multiple of") as caught:
        prefixed.embed(prefixed.tokenize(["hello"]), prefixes(prefixed, 1)[:, 1:])
    assert caught.value.param == "prompts"


def test_a_prefix_longer_than_the_positions_of_the_model_is_rejected(prefixed: EncoderBackbone) -> None:
    prefixed.check_room(2 * prefixed.prompted_layers * prefixed.max_positions)
    with pytest.raises(BackboneError, match=f"prompt of {prefixed.max_positions + 1} positions .* is too long"):
        prefixed.check_room(2 * prefixed.prompted_layers * (prefixed.max_positions + 1))


def test_a_model_without_sdpa_attention_is_rejected(encoder: EncoderBackbone) -> None:
    model: Any = encoder.model
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        with pytest.raises(BackboneError, match="need SDPA attention"):
            EncoderBackbone(model, encoder.tokenizer, encoder.identity, prompt_placement="every_layer")
    finally:
        model.config._attn_implementation = before
