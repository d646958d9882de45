"""Layers below the prompted ones: each text passes them once, and the result is that of the whole model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.loading import load_backbone
from ipt.backbones.lower_layers import LowerLayers, layers_of
from ipt.errors import BackboneError

TEXTS = ["the dog was happy", "good movie", "hello world " * 6]


@pytest.fixture(params=["bert", "distilbert", "roberta"])
def upper(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> EncoderBackbone:
    backbone = load_backbone(str(tiny_folder(request.param)), device="cpu")
    assert isinstance(backbone, EncoderBackbone)
    return backbone.placed("upper_layers")


def count_passes(upper: EncoderBackbone) -> list[int]:
    """Return a list that receives the number of rows of each pass through the first layer."""
    passes: list[int] = []
    first: Any = layers_of(upper.model)[0]
    first.register_forward_pre_hook(lambda _, arguments: passes.append(len(arguments[0])))
    return passes


def test_the_result_is_that_of_the_whole_model(upper: EncoderBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = upper.tokenize(TEXTS)
    prompts = torch.randn(len(rows), upper.prompt_rows(2), upper.hidden_size, requires_grad=True)
    prompted = [True, False, True]
    split = upper._embed(rows, prompts, prompted)
    (gradient,) = torch.autograd.grad(split.square()[:, 0].sum(), prompts)
    assert upper._lower_layers is not None
    monkeypatch.setattr(upper, "_lower_layers", None)
    whole = upper._embed(rows, prompts, prompted)
    (whole_gradient,) = torch.autograd.grad(whole.square()[:, 0].sum(), prompts)
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, whole_gradient, atol=1e-5, rtol=0)


def test_a_text_passes_the_lower_layers_once(upper: EncoderBackbone) -> None:
    passes = count_passes(upper)
    rows = upper.tokenize([*TEXTS, TEXTS[0]])
    with torch.inference_mode():
        frozen = upper.embed(rows)
    prompts = torch.randn(len(rows), upper.prompt_rows(2), upper.hidden_size, requires_grad=True)
    upper.embed(rows, prompts).sum().backward()
    with torch.inference_mode():
        again, _ = upper.embed_both(rows, prompts.detach())
    assert sum(passes) == len(TEXTS)
    assert not torch.allclose(again, frozen, atol=1e-3)


def test_states_of_old_texts_make_room_for_new_ones(upper: EncoderBackbone) -> None:
    passes = count_passes(upper)
    rows = upper.tokenize(TEXTS)
    size = upper.hidden_size * 4
    lower = LowerLayers(upper.model, 1, max_bytes=size * (len(rows[1]) + len(rows[2])))
    for row in (rows[0], rows[1], rows[2], rows[1]):  # the third evicts the first
        lower.states([row])
    assert sum(passes) == 3
    lower.states([rows[0]])
    assert sum(passes) == 4


def test_texts_that_do_not_fit_the_memory_are_still_embedded(upper: EncoderBackbone) -> None:
    rows = upper.tokenize(TEXTS)
    lower = LowerLayers(upper.model, 1, max_bytes=0)
    assert [len(states) for states in lower.states(rows)] == [len(row) for row in rows]
    assert lower.kept_bytes == 0


def shared_and_upper(upper: EncoderBackbone, rows: int) -> tuple[EncoderBackbone, torch.Tensor, torch.Tensor]:
    """Return the backbone with a shared prompt, prompts of its upper layers, and both together at every layer."""
    every = upper.placed("every_layer")
    whole = torch.randn(1, every.prompt_rows(2), upper.hidden_size, generator=torch.Generator().manual_seed(1))
    below = every.prompt_rows(2) - upper.prompt_rows(2)
    own = torch.randn(rows, upper.prompt_rows(2), upper.hidden_size, generator=torch.Generator().manual_seed(2))
    together = torch.cat([whole[:, :below].expand(rows, -1, -1), own], dim=1)
    return upper.with_shared_prompt(whole[0, :below]), own.requires_grad_(), together


def test_a_shared_prompt_reads_like_that_prompt_at_every_layer(
    upper: EncoderBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = upper.tokenize(TEXTS)
    shared, own, together = shared_and_upper(upper, len(rows))
    prompted = [True, False, True]
    expected = upper.placed("every_layer")._embed(rows, together, prompted)
    embedded = shared._embed(rows, own, prompted)
    torch.testing.assert_close(embedded, expected, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(embedded.square()[:, 0].sum(), own)
    assert gradient[0].abs().sum() > 0
    monkeypatch.setattr(shared, "_lower_layers", None)  # as on a GPU
    torch.testing.assert_close(shared._embed(rows, own, prompted), expected, atol=1e-5, rtol=0)


def test_texts_pass_the_lower_layers_once_with_a_shared_prompt_and_once_without(upper: EncoderBackbone) -> None:
    rows = upper.tokenize(TEXTS)
    shared, own, _ = shared_and_upper(upper, len(rows))
    passes = count_passes(upper)
    for _ in range(3):
        prompted, frozen = shared.embed_both(rows, own.detach())
    assert sum(passes) == 2 * len(TEXTS)
    assert not torch.allclose(prompted, frozen, atol=1e-3)
    torch.testing.assert_close(frozen, upper.embed(rows), atol=1e-5, rtol=0)


def test_placements_with_and_without_a_shared_prompt_stay_apart(upper: EncoderBackbone) -> None:
    shared, *_ = shared_and_upper(upper, 1)
    assert shared.shared_prompt is not None
    assert shared.with_shared_prompt(shared.shared_prompt.clone()) is shared
    assert upper.with_shared_prompt(shared.shared_prompt) is shared
    assert shared.placed("upper_layers").shared_prompt is None
    assert shared.prompt_identity != upper.prompt_identity
    with pytest.raises(BackboneError, match="has no layers below the prompt"):
        upper.placed("every_layer").with_shared_prompt(shared.shared_prompt)
    with pytest.raises(BackboneError, match="a shared prompt has the keys and values of"):
        upper.with_shared_prompt(shared.shared_prompt[:1])
