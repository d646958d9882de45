"""AdamW on the vectors of many jobs at once. It is elementwise, so jobs do not influence each other.

Clipping, learning rate and step count are per lane. Letters: L lanes, D intrinsic dimension.
Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", algorithm 2 (with weight decay 0). The schedule
(linear, 6 % warm-up) and the clipping follow the reference of arXiv 2110.07867.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.batching import to_device
from ipt.tuning.work_units import LaneState

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
CLIP_NORM = 1.0
AVERAGING = 0.1
"""Weight of the newest vector in a lane's moving average: few-shot gradients are noisy."""
WARMUP_FRACTION = 0.06


def scheduled_rate(learning_rate: float, step: int, steps: int) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`: 6 % linear warm-up, then linear decay to zero."""
    warmup = max(1, round(WARMUP_FRACTION * steps))
    if step < warmup:
        return learning_rate * (step + 1) / warmup
    return learning_rate * (steps - step) / max(1, steps - warmup)


def update_lanes(states: Sequence[LaneState], gradients: Tensor, learning_rates: Sequence[float]) -> None:
    """Update the vectors, moments and averages of every state by one step, in place.

    Args:
        states: one for each job; their lanes, in order, are the rows of `gradients`.
        gradients: [L, D].
        learning_rates: one for each job.
    """
    counts = [state.vectors.shape[0] for state in states]
    per_lane = torch.tensor(
        [
            (rate, state.step + 1)
            for state, rate in zip(states, learning_rates, strict=True)
            for _ in range(state.vectors.shape[0])
        ],
        dtype=torch.float64,
    )
    rates, steps = torch.split(per_lane, 1, dim=1)
    second_correction = (1 - BETA2**steps).sqrt()
    constants = torch.cat([rates * second_correction / (1 - BETA1**steps), EPSILON * second_correction], dim=1)
    scale, epsilon = torch.split(to_device(constants.to(gradients.dtype), gradients.device), 1, dim=1)

    clipped = gradients * (CLIP_NORM / gradients.norm(dim=1, keepdim=True).clamp_min(CLIP_NORM))
    first = torch.cat([state.first_moments for state in states]).lerp_(clipped, 1 - BETA1)
    second = (
        torch.cat([state.second_moments for state in states]).mul_(BETA2).addcmul_(clipped, clipped, value=1 - BETA2)
    )
    vectors = torch.cat([state.vectors for state in states]) - scale * first / (second.sqrt() + epsilon)
    averages = torch.cat([state.averages for state in states]).lerp_(vectors, AVERAGING)
    per_state = zip(*(torch.split(all_lanes, counts) for all_lanes in (vectors, first, second, averages)), strict=True)
    for state, updated in zip(states, per_state, strict=True):
        state.vectors, state.first_moments, state.second_moments, state.averages = updated
        state.step += 1
