"""Sampling uses the same tokens and probabilities as the logits processors of transformers."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ipt.generation.parameters import GenerationParameters
from ipt.generation.sampling import draw, next_tokens

PARAMETERS = [
    GenerationParameters(temperature=1.0),
    GenerationParameters(temperature=0.7, top_k=3),
    GenerationParameters(temperature=1.5, top_p=0.6),
    GenerationParameters(temperature=0.5, top_k=4, top_p=0.9),
    GenerationParameters(temperature=1.0, top_k=100, top_p=0.01),
]


def test_each_row_is_sampled_from_the_distribution_of_transformers() -> None:
    logits = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    draws = (torch.arange(2000).double() + 0.5) / 2000
    together = next_tokens(
        logits.repeat(2000 * len(PARAMETERS), 1),
        [parameters for _ in draws for parameters in PARAMETERS],
        draws.repeat_interleave(len(PARAMETERS)).tolist(),
    ).view(2000, len(PARAMETERS))
    for number, parameters in enumerate(PARAMETERS):
        remaining = TemperatureLogitsWarper(parameters.temperature)(None, logits)
        if parameters.top_k:
            remaining = TopKLogitsWarper(parameters.top_k)(None, remaining)
        if parameters.top_p < 1:
            remaining = TopPLogitsWarper(parameters.top_p)(None, remaining)
        shares = torch.bincount(together[:, number], minlength=12) / 2000
        torch.testing.assert_close(shares, remaining.softmax(dim=1)[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-53])
def test_the_ends_of_the_range_draw_a_remaining_token(drawn: float) -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0, -torch.inf]])
    [token] = next_tokens(logits, [GenerationParameters(temperature=1.0, top_k=2)], [drawn]).tolist()
    assert token == (1 if drawn == 0.0 else 2)


@pytest.mark.parametrize("top_p", [1e-3, 1e-45, 1e-46, 5e-324])
def test_a_top_p_near_zero_takes_the_most_likely_token(top_p: float) -> None:
    logits = torch.tensor([[4.0, 5.0, 3.0, -9.0]])
    for drawn in (0.0, 0.5, 1 - 2**-53):
        assert next_tokens(logits, [GenerationParameters(temperature=1.0, top_p=top_p)], [drawn]).tolist() == [1]


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0], [9.0, 5.0, 4.0]])
    greedy = GenerationParameters(temperature=0.0)
    assert next_tokens(logits, [greedy, greedy], [0.99, 0.99]).tolist() == [1, 0]


def test_draws_are_uniform_and_depend_on_seed_and_position_only() -> None:
    drawn = [draw(seed, position) for seed in range(20) for position in range(50)]
    assert drawn == [draw(seed, position) for seed in range(20) for position in range(50)]
    assert len(set(drawn)) == 1000
    assert torch.tensor(drawn).histc(bins=10, min=0, max=1).min() > 60


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-37, 5e-324])
def test_a_temperature_near_zero_takes_the_most_likely_token(temperature: float) -> None:
    logits = torch.tensor([[2.0, 9.0, -4.0, 8.0]])
    assert next_tokens(logits, [GenerationParameters(temperature=temperature)], [0.999]).tolist() == [1]
