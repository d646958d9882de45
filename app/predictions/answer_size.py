"""The most bytes that an answer can have, so that a larger one is rejected before anything is computed."""

import json
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from app.errors import InvalidError

MAX_ANSWER_BYTES = 8_000_000
"""Most bytes of the predictions of one request, as JSON."""
_PREDICTION_BYTES = len(
    '{"label":null,"labels":[],"scores":{},"in_scope":0.12345678901234567e-300,"reason":"out_of_scope","truncated":true,'
    '"version":2147483647},'
)
_SCORE_BYTES = len(":0.12345678901234567e-300,")


def prediction_bytes(labels: Sequence[str], *, all_labels: bool = False) -> Sequence[int]:
    """Return the most bytes of one prediction with no score, one score, and so on up to a score for each label.

    A prediction has one label; of a multi-label task, `all_labels`.
    """
    sizes = sorted((len(json.dumps(label, ensure_ascii=False).encode()) for label in labels), reverse=True)
    scores = (size + _SCORE_BYTES for size in sizes)
    answered = sum(sizes) + len(sizes) if all_labels else max(sizes, default=0)
    return array("Q", accumulate(scores, initial=_PREDICTION_BYTES + answered))


def check_answer_size(bounds: Sequence[Sequence[int]], top_k: int | None) -> None:
    """Reject a request whose answer could be too large.

    Args:
        bounds: `prediction_bytes` of the task of each text.
        top_k: scores of a prediction, all if None.

    Raises:
        InvalidError: says which `top_k` is small enough.
    """
    most_scores = max(map(len, bounds)) - 1
    size = _answer_bytes(bounds, most_scores if top_k is None else top_k)
    if size <= MAX_ANSWER_BYTES:
        return
    fitting = bisect_right(range(1, most_scores + 1), MAX_ANSWER_BYTES, key=lambda k: _answer_bytes(bounds, k))
    advice = f"set top_k to {fitting} or less" if fitting else "send fewer texts, with top_k"
    raise InvalidError(
        f"the answer could have {size:,} bytes, at most {MAX_ANSWER_BYTES:,} are allowed: {advice}",
        code="answer_too_large",
        param="top_k",
    )


def _answer_bytes(bounds: Sequence[Sequence[int]], scores: int) -> int:
    return sum(sizes[min(scores, len(sizes) - 1)] for sizes in bounds)
