"""What the generation engine tells of the texts that it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True)
class TextDelta:
    """A further piece of a text."""

    request_id: str
    text: str


@dataclass(frozen=True)
class TextFinished:
    """A text that has ended: at an end-of-sequence token or stop string (`stop`), or otherwise.

    `generated_tokens` are those that were written, the one that ended the text included; `truncated` says that the
    input was too long to be read whole.
    """

    request_id: str
    reason: FinishReason
    text: str
    input_tokens: int
    generated_tokens: int
    truncated: bool
    error: Exception | None = None


GenerationEvent = TextDelta | TextFinished
