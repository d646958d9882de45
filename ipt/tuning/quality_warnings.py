"""Warnings about the quality of an adaptation, derived from its scores."""

from __future__ import annotations

FEW_HELD_BACK = 20


def quality_warnings(score: float | None, start: float | None, baseline: float | None, held_back: int) -> list[str]:
    """Warn if the task is worse than the baseline, if it beats neither baseline, and if few examples were measured.

    Args:
        score, start, baseline: shares of right answers after tuning, before tuning and without a prompt; None if
            nothing could be measured.
        held_back: number of held-back examples they were measured on.
    """
    if score is None or start is None or baseline is None:
        return ["too few examples to hold any back, so nothing was measured; give validation_examples for a score"]
    warnings = []
    if score < baseline or score == baseline <= start:
        fault = "worse than it would be without a prompt" if score < baseline else "no better than its baselines"
        warnings.append(
            f"on {held_back} held-back examples the tuned task is {fault}: {score:.1%} right, {start:.1%} "
            f"before tuning, {baseline:.1%} without a prompt; more examples may make a difference"
        )
    if held_back < FEW_HELD_BACK:
        warnings.append(
            f"the score was measured on only {held_back} held-back examples, so it is a rough estimate; "
            "give validation_examples for a better one"
        )
    return warnings
