"""Generation parameters: length, sampling, beam search and stop strings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ipt.errors import IptError
from ipt.generation.json_format import JsonSchema

MAX_BEAMS = 16
MAX_STOP_STRINGS = 4
MAX_STOP_STRING_CHARS = 128


@dataclass(frozen=True)
class GenerationParameters:
    """Parameters of one text, with the same meaning as in transformers.

    `temperature` 0 always takes the most likely token. Otherwise a token is sampled from the `top_k` most likely ones
    and the smallest set of total probability `top_p`. The same `seed` gives the same text in any batch. `num_beams`
    above 1 is a beam search; its text is known only at the end. The text ends before the first of the `stop` strings.
    With a `json_schema` the text is JSON that fits it; at `max_new_tokens` it is ended as briefly as the schema allows.

    Raises:
        IptError: a value is out of range, or two values contradict each other.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    num_beams: int = 1
    stop: tuple[str, ...] = ()
    json_schema: JsonSchema | None = None

    def __post_init__(self) -> None:
        _check(self.max_new_tokens >= 1, "max_new_tokens", "must be at least 1")
        _check(math.isfinite(self.temperature) and 0 <= self.temperature <= 100, "temperature", "must be 0 to 100")
        _check(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1")
        _check(self.top_k is None or self.top_k >= 1, "top_k", "must be at least 1")
        _check(self.seed is None or self.seed >= 0, "seed", "must be at least 0")
        _check(1 <= self.num_beams <= MAX_BEAMS, "num_beams", f"must be 1 to {MAX_BEAMS}")
        _check(self.num_beams == 1 or self.temperature == 0, "num_beams", "must be 1 if temperature is above 0")
        _check(len(self.stop) <= MAX_STOP_STRINGS, "stop", f"must have at most {MAX_STOP_STRINGS} strings")
        if self.json_schema is not None:
            _check(self.num_beams == 1, "num_beams", "must be 1 if a JSON schema is given")
            _check(not self.stop, "stop", "must be empty if a JSON schema is given, which says where a text ends")
        for number, text in enumerate(self.stop):
            _check(
                0 < len(text) <= MAX_STOP_STRING_CHARS,
                f"stop[{number}]",
                f"must have 1 to {MAX_STOP_STRING_CHARS} characters, got {len(text)}",
            )


def _check(is_valid: bool, param: str, requirement: str) -> None:
    if not is_valid:
        raise IptError(f"{param} {requirement}", param=param)
