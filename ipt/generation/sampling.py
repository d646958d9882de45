"""Choosing the next token of every row of a batch, each in its own way.

Letters: B rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ipt.generation.parameters import GenerationParameters

LEAST_TEMPERATURE = 1e-30
"""Lower ones are no number in single precision."""


def next_tokens(logits: Tensor, rows: Sequence[GenerationParameters], draws: Sequence[float]) -> Tensor:
    """The next token of each row, [B], from `logits` [B, V].

    Args:
        logits: of the next token.
        rows: how each row is written.
        draws: a number in [0, 1) for each row, see `draw`; it decides alone where a row is drawn.
    """
    tokens = logits.argmax(dim=-1)
    drawn = [number for number, row in enumerate(rows) if row.temperature > 0]
    if drawn:
        chosen = torch.tensor(drawn, device=logits.device)
        tokens[chosen] = _sample(
            logits[chosen].float(), [rows[number] for number in drawn], [draws[number] for number in drawn]
        )
    return tokens


def draw(seed: int, position: int) -> float:
    """The number in [0, 1) that decides the token at a position: of the seed alone, not of what was drawn before."""
    return float(np.random.default_rng((seed, position)).random())


def _sample(logits: Tensor, rows: Sequence[GenerationParameters], draws: Sequence[float]) -> Tensor:
    """By inverting the cumulative distribution of the tokens that are left, the likeliest first."""
    device = logits.device
    # Behind the likeliest token, so that no temperature, however low, makes anything of it but a certainty.
    temperatures = _column([max(row.temperature, LEAST_TEMPERATURE) for row in rows], device)
    ordered, tokens = ((logits - logits.amax(dim=1, keepdim=True)) / temperatures).sort(descending=True, stable=True)
    vocabulary = logits.shape[1]
    ranks = _column([min(row.top_k or vocabulary, vocabulary) - 1 for row in rows], device, torch.long)
    ordered = ordered.masked_fill(ordered < ordered.gather(1, ranks), -torch.inf)
    probabilities = ordered.softmax(dim=1)
    # A token stays while those before it do not have the wanted probability yet, so the first one always does.
    before = probabilities.cumsum(dim=1) - probabilities
    before[:, 0] = -1.0  # where the wanted probability is zero in single precision, too
    probabilities = probabilities.masked_fill(before >= _column([row.top_p for row in rows], device), 0.0)
    cumulative = probabilities.double().cumsum(dim=1)
    wanted = _column(draws, device, torch.double) * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, wanted, right=True).clamp(max=vocabulary - 1)
    return tokens.gather(1, places)[:, 0]


def _column(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float) -> Tensor:
    """[B, 1]"""
    return torch.tensor(values, dtype=dtype)[:, None].to(device)
