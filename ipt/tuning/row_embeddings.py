"""Embeddings of a job's rows, requested from the engine when needed and cached for each vector.

Letters: L vectors, H hidden size, D intrinsic dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ipt.backbones.interface import TokenIds
from ipt.readout.embeddings import Embeddings
from ipt.subspace.subspace import Subspace
from ipt.tuning.work_units import NO_PROMPT, Forward, Result, Work, WorkStream

FORWARD_TOKENS = 4096
"""Tokens of one unit of work without gradients; bounds the duration of an engine step."""


class ReadoutInputs(NamedTuple):
    """Embeddings that a readout is fitted to: those of examples, and those of the label names if they are words."""

    examples: Embeddings
    names: Embeddings | None


class RowEmbeddings:
    """Embeds each row once without a prompt, and at most once with the prompt of each vector."""

    def __init__(
        self, token_ids: Sequence[TokenIds], name_rows: Sequence[int], subspace: Subspace, prompt_positions: int
    ) -> None:
        """Create an empty cache.

        Args:
            token_ids: of all rows.
            name_rows: the numbers of the rows that are label names.
            subspace: the subspace of the vectors.
            prompt_positions: positions that a prompt takes in each row.
        """
        self._token_ids = token_ids
        self._name_rows = list(name_rows)
        self._subspace = subspace
        self._prompt_positions = prompt_positions
        self._prompted: dict[bytes, dict[int, Tensor]] = defaultdict(dict)
        self.frozen = torch.empty(0)
        """[rows, H], on the CPU, once `embed_frozen` has run."""

    def embed_frozen(self) -> WorkStream:
        """Embed all rows without a prompt."""
        self.frozen = yield from self._embed(None, [(NO_PROMPT, row) for row in range(len(self._token_ids))])

    def embed(self, vectors: Tensor, rows: Sequence[int]) -> WorkStream:
        """Embed rows, and the label names, with the prompt of each of `vectors` [L, D], unless they are cached."""
        vectors = torch.stack(list({_key(vector): vector for vector in vectors}.values()))
        cached = [self._prompted[_key(vector)] for vector in vectors]
        missing = [
            (lane, row)
            for row in [*rows, *self._name_rows]
            for lane, embedded_rows in enumerate(cached)
            if row not in embedded_rows
        ]
        embedded = yield from self._embed(vectors, missing)
        for (lane, row), embedding in zip(missing, embedded, strict=True):
            cached[lane][row] = embedding

    def keep(self, vectors: Tensor) -> None:
        """Forget the embeddings with all prompts but those of `vectors` [L, D]."""
        kept = {_key(vector) for vector in vectors}
        for key in self._prompted.keys() - kept:
            del self._prompted[key]

    def readout_inputs(self, vector: Tensor, rows: Sequence[int]) -> Generator[Work, Result, ReadoutInputs]:
        """Return the embeddings of rows, and of the label names, with the prompt of `vector` [D]."""
        yield from self.embed(vector[None], rows)
        prompted = self._prompted[_key(vector)]

        def embeddings(numbers: Sequence[int]) -> Embeddings:
            return Embeddings(torch.stack([prompted[row] for row in numbers]), self.frozen[list(numbers)])

        return ReadoutInputs(embeddings(rows), embeddings(self._name_rows) if self._name_rows else None)

    def _embed(self, vectors: Tensor | None, placed_rows: Sequence[tuple[int, int]]) -> Generator[Work, Result, Tensor]:
        """Return an embedding [H] on the CPU for each (lane, row): the row with the prompt of that lane's vector.

        Without `vectors` [L, D] the rows have no prompt. Units of work have at most `FORWARD_TOKENS` tokens, prompts
        included, and take the longest rows first, so that little of each is padding.
        """
        prompt_positions = 0 if vectors is None else self._prompt_positions
        order = sorted(range(len(placed_rows)), key=lambda place: -len(self._token_ids[placed_rows[place][1]]))
        units: list[list[tuple[int, int]]] = []
        tokens = 0
        for lane, row in (placed_rows[place] for place in order):
            length = prompt_positions + len(self._token_ids[row])
            if not units or tokens + length > FORWARD_TOKENS:
                units.append([])
                tokens = 0
            units[-1].append((lane, row))
            tokens += length
        lane_vectors = torch.empty(0, self._subspace.intrinsic_dim) if vectors is None else vectors
        embedded = torch.empty(len(placed_rows), self._subspace.hidden_size)
        done = 0
        for unit in units:
            lanes, rows = zip(*unit, strict=True)
            output = yield Forward(lane_vectors, lanes, [self._token_ids[row] for row in rows])
            assert isinstance(output, Tensor)
            embedded[order[done : done + len(unit)]] = output.float().cpu()
            done += len(unit)
        return embedded


def _key(vector: Tensor) -> bytes:
    return vector.cpu().numpy().tobytes()
