"""Streaming text: decodes tokens as they arrive and never emits text that a later token could change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipt.backbones.interface import TokenIds

WINDOW = 64
"""Most tokens that are decoded at a time, so that the cost of a token does not grow with the text. Half of them are
enough context for any decoder."""


class TextStream:
    """The text of one row, stripped of surrounding white space, up to the first stop string.

    Text that may still change is held back: an incomplete character, trailing white space, and the beginning of a
    possible stop string. The pieces that `push` and `finish` return add up to the text.
    """

    def __init__(self, decode: Callable[[TokenIds], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        self._tokens: TokenIds = []
        self._emitted = 0
        """Characters of the decoded tokens that have been emitted."""
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text emitted so far."""
        return "".join(self._pieces)

    def push(self, token: int) -> tuple[str, bool]:
        """Add a token; return the text that is now certain, and whether a stop string ended the text."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        # Decoders write an incomplete character as U+FFFD.
        pending = text[self._emitted :].rstrip("\ufffd")
        places = [place for place in (pending.find(stop) for stop in self._stop) if place >= 0]
        if places:
            return self._emit(pending[: min(places)]), True
        piece = self._emit(pending[: self._certain_length(pending)])
        self._shorten(text)
        return piece, False

    def finish(self) -> str:
        """Return the held-back rest of a text that ends here, without an incomplete character."""
        return self._emit(self._decode(self._tokens)[self._emitted :].rstrip("\ufffd"))

    def _certain_length(self, pending: str) -> int:
        """Return the length of the text before the beginning of a possible stop string."""
        certain = len(pending)
        for stop in self._stop:
            for start in range(max(0, len(pending) - len(stop) + 1), certain):
                if stop.startswith(pending[start:]):
                    certain = start
                    break
        return certain

    def _emit(self, certain: str) -> str:
        stripped = certain.rstrip()
        self._emitted += len(stripped)
        piece = stripped if self._pieces else stripped.lstrip()
        if piece:
            self._pieces.append(piece)
        return piece

    def _shorten(self, text: str) -> None:
        """Drop all but half a window of the tokens, if the rest decodes to the same text without the others."""
        if len(self._tokens) < WINDOW or text.endswith("\ufffd"):
            return
        rest = self._tokens[-WINDOW // 2 :]
        rest_text = self._decode(rest)
        surplus = len(text) - len(rest_text)
        if text.endswith(rest_text) and surplus <= self._emitted:
            self._tokens = rest
            self._emitted -= surplus
