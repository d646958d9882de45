"""Fused GELU: the same outputs and gradients, and present in a loaded model."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, T5Config
from transformers.activations import NewGELUActivation

from ipt.backbones.gelu import fuse_gelu
from ipt.backbones.loading import load_backbone

GPT2 = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2)
GATED_T5 = T5Config(
    vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
)


def last_states(model: Any, embeds: Tensor) -> Tensor:
    """Return the last hidden states of the model, or of its encoder if it has one."""
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    states: Tensor = reader(inputs_embeds=embeds).last_hidden_state
    return states


@pytest.mark.parametrize("config", [GPT2, GATED_T5], ids=["gpt2", "gated t5"])
def test_states_and_gradients_equal_those_of_the_stock_model(config: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stock = AutoModel.from_config(config).eval().requires_grad_(False)
        embeds = [torch.randn(3, 9, 32).requires_grad_()]
    embeds.append(embeds[0].detach().clone().requires_grad_())
    fused = copy.deepcopy(stock)
    fuse_gelu(fused)
    assert any(isinstance(module, NewGELUActivation) for module in stock.modules())
    assert not any(isinstance(module, NewGELUActivation) for module in fused.modules())
    states = [last_states(model, each) for model, each in zip((stock, fused), embeds, strict=True)]
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=0)
    expected, actual = (
        torch.autograd.grad(last.square().sum(), each)[0] for last, each in zip(states, embeds, strict=True)
    )
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_a_loaded_gpt2_computes_gelu_in_one_operation_per_layer(tiny_folder: Callable[[str], Path]) -> None:
    model: Any = load_backbone(str(tiny_folder("gpt2")), device="cpu").model
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        model(input_ids=torch.tensor([[5, 6, 7]]))
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert calls["aten::gelu"] == model.config.num_hidden_layers
    assert not {"aten::tanh", "aten::pow"} & calls.keys()


def test_a_loaded_gpt2_gives_the_stock_models_logits(tiny_folder: Callable[[str], Path]) -> None:
    model: Any = load_backbone(str(tiny_folder("gpt2")), device="cpu").model
    stock = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2"), dtype=torch.float32).eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, stock(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
