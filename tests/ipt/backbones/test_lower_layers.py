"""Layers below the prompted ones: each text passes them once, and the result is that of the whole model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.loading import load_backbone
from ipt.backbones.lower_layers import LowerLayers, layers_of

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
