"""Keys and values with room behind them, so that a written token is added in place.

transformers' own cache makes a longer copy of the whole past with every token, in each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Positions that are made room for at a time."""


class _Grown:
    """Keys or values [B, heads, L, size], behind which more are written.

    Neither the tensor that is given nor a position once filled is ever written to: whoever holds them keeps what they
    have.
    """

    def __init__(self, filled: Tensor) -> None:
        self._buffer = filled
        self._length = filled.shape[2]
        self._extended = False

    @property
    def filled(self) -> Tensor:
        """All positions so far, without the room behind them."""
        return self._buffer[:, :, : self._length]

    def make_room(self, positions: int) -> None:
        rows, heads, _, size = self._buffer.shape
        larger = self._buffer.new_empty(rows, heads, self._length + positions, size)
        larger[:, :, : self._length] = self.filled
        self._buffer = larger

    def extend(self, new: Tensor) -> Tensor:
        """Add positions; all of them so far."""
        start, end = self._length, self._length + new.shape[2]
        if end > self._buffer.shape[2]:
            # Labels are read in one extension, and beams change places after each: there the first is the last.
            self.make_room(new.shape[2] + (ROOM if self._extended else 0))
        self._buffer[:, :, start:end] = new
        self._length = end
        self._extended = True
        return self.filled


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values. Whoever assigns others, as the methods of the base class do, begins anew."""

    _keys: _Grown | None = None
    _values: _Grown | None = None

    @property
    def keys(self) -> Tensor | None:
        return None if self._keys is None else self._keys.filled

    @keys.setter
    def keys(self, filled: Tensor | None) -> None:
        self._keys = None if filled is None else _Grown(filled)

    @property
    def values(self) -> Tensor | None:
        return None if self._values is None else self._values.filled

    @values.setter
    def values(self, filled: Tensor | None) -> None:
        self._values = None if filled is None else _Grown(filled)

    def begin(self, keys: Tensor, values: Tensor, room: int) -> None:
        """Hold these, with room for so many more."""
        self.dtype, self.device = keys.dtype, keys.device
        self._keys, self._values = _Grown(keys), _Grown(values)
        self._keys.make_room(room)
        self._values.make_room(room)
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002 - what the base class takes
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Add positions; all keys and values so far."""
        if self._keys is None or self._values is None:
            # Copied, for what a model hands over is often a view of something larger, which would stay in memory.
            self.begin(key_states, value_states, room=0)
            return key_states, value_states
        return self._keys.extend(key_states), self._values.extend(value_states)


def growing_cache(past: Sequence[tuple[Tensor, Tensor]] = (), coming: int = 0) -> Any:
    """A cache that is empty, or holds keys and values [B, heads, L, size] of each layer, to be written on.

    It has room for `coming` positions at once, and those that are written one by one. Every layer keeps all positions,
    also where the model attends to a window of them.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    for keys, values in past:
        layer = GrowingLayer()  # type: ignore[no-untyped-call]
        layer.begin(keys, values, coming + ROOM)
        cache.layers.append(layer)
    return cache
