"""Choosing the next token of every row of a batch, each with its own parameters.

Letters: B rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ipt.generation.parameters import GenerationParameters

MIN_TEMPERATURE = 1e-30
"""Division by a lower temperature overflows in single precision."""


def next_tokens(logits: Tensor, rows: Sequence[GenerationParameters], draws: Sequence[float]) -> Tensor:
    """Return the next token of each row [B].

    Args:
        logits: [B, V], of the next token.
        rows: the parameters of each row.
        draws: a number in [0, 1) for each row, see `draw`; it determines the token of a row that is sampled.
    """
    tokens = logits.argmax(dim=-1)
    sampled = [number for number, row in enumerate(rows) if row.temperature > 0]
    if sampled:
        chosen = torch.tensor(sampled, device=logits.device)
        tokens[chosen] = _sample(
            logits[chosen].float(), [rows[number] for number in sampled], [draws[number] for number in sampled]
        )
    return tokens


def draw(seed: int, position: int) -> float:
    """Return the number in [0, 1) that determines the token at a position; it does not depend on earlier draws."""
    return float(np.random.default_rng((seed, position)).random())


def _sample(logits: Tensor, rows: Sequence[GenerationParameters], draws: Sequence[float]) -> Tensor:
    """Sample by inverting the cumulative distribution of the remaining tokens, the most likely first."""
    device = logits.device
    # Subtract the largest logit first: then a very low temperature makes the most likely token certain.
    temperatures = _column([max(row.temperature, MIN_TEMPERATURE) for row in rows], device)
    ordered, tokens = ((logits - logits.amax(dim=1, keepdim=True)) / temperatures).sort(descending=True, stable=True)
    vocabulary = logits.shape[1]
    ranks = _column([min(row.top_k or vocabulary, vocabulary) - 1 for row in rows], device, torch.long)
    ordered = ordered.masked_fill(ordered < ordered.gather(1, ranks), -torch.inf)
    probabilities = ordered.softmax(dim=1)
    # A token remains as long as the tokens before it have less than `top_p` together, so the first always remains.
    before = probabilities.cumsum(dim=1) - probabilities
    before[:, 0] = -1.0  # also if `top_p` is zero in single precision
    probabilities = probabilities.masked_fill(before >= _column([row.top_p for row in rows], device), 0.0)
    cumulative = probabilities.double().cumsum(dim=1)
    targets = _column(draws, device, torch.double) * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, targets, right=True).clamp(max=vocabulary - 1)
    return tokens.gather(1, places)[:, 0]


def _column(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.float) -> Tensor:
    """Return values as a column [B, 1]."""
    return torch.tensor(values, dtype=dtype)[:, None].to(device)
