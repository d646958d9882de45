"""Plain intrinsic subspace tuning of one vector: one row at a time, with torch's own AdamW.

It is the reference for the batched code of `ipt.tuning`: leave-one-out scores come from actually leaving each row out,
the classifier from the normal equations, optimizer and clipping from torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def leave_one_out_by_refitting(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Return each row's scores [N, C] by a classifier fitted to all other rows of features [N, F], targets [N, C]."""
    biased = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    scores = []
    for row in range(len(features)):
        others = [i for i in range(len(features)) if i != row]
        fitted = biased[others]
        weights = torch.linalg.solve(fitted.T @ fitted + ridge * torch.eye(fitted.shape[1]), fitted.T @ targets[others])
        scores.append(biased[row] @ weights)
    return torch.stack(scores)


def tune(
    start: Tensor,
    rows_of_step: Sequence[tuple[list[list[int]], list[int]]],
    embed_row: Callable[[list[int], Tensor | None], Tensor],
    decode: Callable[[Tensor], Tensor],
    *,
    ridge: float,
    scale: float,
    share: float,
    smoothing: float,
    rates: Sequence[float],
    clip: float,
) -> Tensor:
    """Return the vector [D] after one step for each entry (token ids, classes) of `rows_of_step`."""
    vector = start.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([vector], lr=1.0, weight_decay=0.0)
    for (token_ids, classes), rate in zip(rows_of_step, rates, strict=True):
        prompt = decode(vector)
        prompted = torch.stack([embed_row(row, prompt) for row in token_ids])
        frozen = torch.stack([embed_row(row, None) for row in token_ids])
        features = torch.cat([share**0.5 * prompted, (1 - share) ** 0.5 * frozen], dim=1)
        count = len(set(classes))
        targets = F.one_hot(torch.tensor(classes), count).float() - 1.0 / count
        scores = leave_one_out_by_refitting(features, targets, ridge)
        loss = F.cross_entropy(scale * scores, torch.tensor(classes), label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([vector], clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return vector.detach()
