"""Events of the generation engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class TextDelta:
    """The next piece of a text."""

    request_id: str
    text: str


@dataclass(frozen=True)
class TextFinished:
    """The end of a text.

    `reason` is `stop` after an end-of-sequence token or a stop string. `generated_tokens` includes the token that ended
    the text. `truncated` tells whether the input was too long and has been shortened.
    """

    request_id: str
    reason: FinishReason
    text: str
    input_tokens: int
    generated_tokens: int
    truncated: bool
    error: Exception | None = None


GenerationEvent = TextDelta | TextFinished
