"""A key-value cache with spare room, so that each new token is written in place.

transformers' own cache copies the whole past for every token, in each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Positions that are allocated at a time."""


class _GrowingTensor:
    """Keys or values [B, heads, L, size] that grow along L.

    The given tensor and all filled positions are never overwritten, so earlier results stay valid.
    """

    def __init__(self, filled: Tensor) -> None:
        self._buffer = filled
        self._length = filled.shape[2]
        self._extended = False

    @property
    def filled(self) -> Tensor:
        """All positions so far, without the spare room."""
        return self._buffer[:, :, : self._length]

    def make_room(self, positions: int) -> None:
        rows, heads, _, size = self._buffer.shape
        larger = self._buffer.new_empty(rows, heads, self._length + positions, size)
        larger[:, :, : self._length] = self.filled
        self._buffer = larger

    def extend(self, new: Tensor) -> Tensor:
        """Append positions and return all of them."""
        start, end = self._length, self._length + new.shape[2]
        if end > self._buffer.shape[2]:
            # The first extension gets no spare room: label scoring and beam search extend a selection only once.
            self.make_room(new.shape[2] + (ROOM if self._extended else 0))
        self._buffer[:, :, start:end] = new
        self._length = end
        self._extended = True
        return self.filled


class GrowingLayer(DynamicLayer):
    """The keys and values of one layer. Assigning to either, as the base class does, starts a new buffer."""

    _keys: _GrowingTensor | None = None
    _values: _GrowingTensor | None = None

    @property
    def keys(self) -> Tensor | None:
        return None if self._keys is None else self._keys.filled

    @keys.setter
    def keys(self, filled: Tensor | None) -> None:
        self._keys = None if filled is None else _GrowingTensor(filled)

    @property
    def values(self) -> Tensor | None:
        return None if self._values is None else self._values.filled

    @values.setter
    def values(self, filled: Tensor | None) -> None:
        self._values = None if filled is None else _GrowingTensor(filled)

    def start(self, keys: Tensor, values: Tensor, room: int) -> None:
        """Copy keys and values into buffers with room for `room` more positions."""
        self.dtype, self.device = keys.dtype, keys.device
        self._keys, self._values = _GrowingTensor(keys), _GrowingTensor(values)
        self._keys.make_room(room)
        self._values.make_room(room)
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002 - part of the base class's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Append positions and return all keys and values."""
        if self._keys is None or self._values is None:
            # A copy, because a model often passes a view of a larger tensor, which the view would keep in memory.
            self.start(key_states, value_states, room=0)
            return key_states, value_states
        return self._keys.extend(key_states), self._values.extend(value_states)


def growing_cache(past: Sequence[tuple[Tensor, Tensor]] = (), expected_positions: int = 0) -> Any:
    """Return a cache that is empty or holds `past`: keys and values [B, heads, L, size] of each layer.

    A cache with a past has room for `expected_positions` and `ROOM` more. Every layer keeps all positions, including
    layers with sliding-window attention.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    for keys, values in past:
        layer = GrowingLayer()  # type: ignore[no-untyped-call]  # the base class is untyped
        layer.start(keys, values, expected_positions + ROOM)
        cache.layers.append(layer)
    return cache
