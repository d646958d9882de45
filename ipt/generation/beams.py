"""Beam search for one text, with the rules of transformers' `generate` (length penalty 1, no early stopping).

Letters: N beams, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ipt.backbones.interface import TokenIds

# The score of what must not be chosen.
NEVER = -1e9


class BeamSearch:
    """The beams of one text: which rows go on with which tokens, and the finished texts so far."""

    def __init__(self, beams: int, stop_tokens: Collection[int], max_new_tokens: int) -> None:
        self.beams = beams
        self._stop_tokens = stop_tokens
        self._max_new_tokens = max_new_tokens
        self.written: list[TokenIds] = [[] for _ in range(beams)]
        # All beams begin alike, so only the first one's continuations count.
        self._scores = [0.0, *[NEVER] * (beams - 1)]
        self._finished: list[tuple[float, TokenIds]] = []
        self._kept = max(2, 1 + len(stop_tokens)) * beams

    @property
    def best(self) -> TokenIds:
        """The best text that has ended, with the token that ended it."""
        return self._finished[0][1]

    def advance(self, logits: Tensor) -> list[int] | None:
        """Choose among all continuations of the beams, given `logits` [N, V] of their next tokens.

        Returns the row that each beam goes on from, or None when the search is over. The tokens are the last of
        `written`.
        """
        scores = log_softmax(logits.float(), dim=-1) + torch.tensor(self._scores, device=logits.device)[:, None]
        best = scores.flatten().topk(min(self._kept, scores.numel()))
        length = len(self.written[0]) + 1
        going_on: list[tuple[float, int, TokenIds]] = []
        for rank, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            source, token = divmod(place, logits.shape[1])
            text = [*self.written[source], token]
            if token not in self._stop_tokens and length < self._max_new_tokens:
                going_on.append((score, source, text))
            elif rank < self.beams:  # others that end are there only so that enough are left to go on
                self._finished.append((score / length, text))
        self._finished = sorted(self._finished, key=lambda one: -one[0])[: self.beams]
        going_on = going_on[: self.beams]
        if not going_on or (len(self._finished) == self.beams and going_on[0][0] / length <= self._finished[-1][0]):
            return None
        self._scores = [score for score, _, _ in going_on]
        self.written = [text for _, _, text in going_on]
        return [source for _, source, _ in going_on]
