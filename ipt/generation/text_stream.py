"""Text from tokens as they come: nothing is given out that a later token could take back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ipt.backbones.interface import TokenIds

# Tokens that are decoded each time, so that long texts cost no more for each token than short ones. The last half of
# them is enough for any decoder to write a token as it reads after those before it.
WINDOW = 64


class TextStream:
    """The text of one row, without white space around it, up to the first stop string.

    Held back is what may still change: half a character, white space that may be the end, and what may become a stop
    string. The pieces that `push` and `finish` give are the text when they are put together.
    """

    def __init__(self, decode: Callable[[TokenIds], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        self._tokens: TokenIds = []
        self._sent = 0
        """Characters of the tokens' text that were given out."""
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._pieces)

    def push(self, token: int) -> tuple[str, bool]:
        """What is certain after one more token, and whether a stop string ended the text."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        # Decoders write half a character as U+FFFD.
        pending = text[self._sent :].rstrip("\ufffd")
        found = [place for place in (pending.find(stop) for stop in self._stop) if place >= 0]
        if found:
            return self._give(pending[: min(found)]), True
        piece = self._give(pending[: self._certain(pending)])
        self._shorten(text)
        return piece, False

    def finish(self) -> str:
        """What was held back of a text that ends here; half a character is dropped."""
        return self._give(self._decode(self._tokens)[self._sent :].rstrip("\ufffd"))

    def _certain(self, pending: str) -> int:
        certain = len(pending)
        for stop in self._stop:
            for start in range(max(0, len(pending) - len(stop) + 1), certain):
                if stop.startswith(pending[start:]):
                    certain = start
                    break
        return certain

    def _give(self, certain: str) -> str:
        kept = certain.rstrip()
        self._sent += len(kept)
        piece = kept if self._pieces else kept.lstrip()
        if piece:
            self._pieces.append(piece)
        return piece

    def _shorten(self, text: str) -> None:
        """Forget all but half a window of the tokens, where these read the same without the others."""
        if len(self._tokens) < WINDOW or text.endswith("\ufffd"):
            return
        rest = self._tokens[-WINDOW // 2 :]
        rest_text = self._decode(rest)
        surplus = len(text) - len(rest_text)
        if text.endswith(rest_text) and surplus <= self._sent:
            self._tokens = rest
            self._sent -= surplus
