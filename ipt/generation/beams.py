"""Beam search for one text, with the rules of transformers' `generate` (length penalty 1, no early stopping).

Letters: N beams, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ipt.backbones.interface import TokenIds

EXCLUDED = -1e9
"""Score of a continuation that must not be chosen."""


class BeamSearch:
    """The beams of one text: the tokens of each row, and the finished texts so far."""

    def __init__(self, beams: int, stop_tokens: Collection[int], max_new_tokens: int) -> None:
        self.beams = beams
        self._stop_tokens = stop_tokens
        self._max_new_tokens = max_new_tokens
        self.written: list[TokenIds] = [[] for _ in range(beams)]
        # All beams start with the same text, so only the continuations of the first count.
        self._scores = [0.0, *[EXCLUDED] * (beams - 1)]
        self._finished: list[tuple[float, TokenIds]] = []
        self._candidates = max(2, 1 + len(stop_tokens)) * beams

    @property
    def best(self) -> TokenIds:
        """The tokens of the best finished text, including the token that ended it."""
        return self._finished[0][1]

    def advance(self, logits: Tensor) -> list[int] | None:
        """Choose the best continuations of all beams, given the logits [N, V] of their next tokens.

        Returns:
            The row that each beam continues, or None if the search is over. `written` ends with the chosen tokens.
        """
        scores = log_softmax(logits.float(), dim=-1) + torch.tensor(self._scores, device=logits.device)[:, None]
        best = scores.flatten().topk(min(self._candidates, scores.numel()))
        length = len(self.written[0]) + 1
        continuing: list[tuple[float, int, TokenIds]] = []
        for rank, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            source, token = divmod(place, logits.shape[1])
            text = [*self.written[source], token]
            if token not in self._stop_tokens and length < self._max_new_tokens:
                continuing.append((score, source, text))
            elif rank < self.beams:  # lower ranks only ensure that enough candidates continue
                self._finished.append((score / length, text))
        self._finished = sorted(self._finished, key=lambda scored: -scored[0])[: self.beams]
        continuing = continuing[: self.beams]
        if not continuing or (len(self._finished) == self.beams and continuing[0][0] / length <= self._finished[-1][0]):
            return None
        self._scores = [score for score, _, _ in continuing]
        self.written = [text for _, _, text in continuing]
        return [source for _, source, _ in continuing]
