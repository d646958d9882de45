"""Warnings about the quality of an adaptation, derived from its scores."""

from __future__ import annotations

FEW_HELD_BACK = 20


def quality_warnings(
    score: float | None, zero_vector: float | None, baseline: float | None, held_back: int
) -> list[str]:
    """Warn if the task is worse than the baseline, if it beats neither baseline, and if few examples were measured.

    Args:
        score, zero_vector, baseline: shares of right answers; None if nothing could be measured.
        held_back: number of held-back examples they were measured on; 0 if they are leave-one-out scores.
    """
    if score is None or zero_vector is None or baseline is None:
        return ["too few examples to hold any back, so nothing was measured; give validation_examples for a score"]
    warnings = []
    if score < baseline or score == baseline <= zero_vector:
        measured_on = f"{held_back} held-back examples" if held_back else "examples left out in turn"
        fault = "worse than it would be without a prompt" if score < baseline else "no better than its baselines"
        warnings.append(
            f"on {measured_on} the tuned task is {fault}: {score:.1%} right, {zero_vector:.1%} "
            f"with the zero vector, {baseline:.1%} without a prompt; more examples may make a difference"
        )
    if 0 < held_back < FEW_HELD_BACK:
        warnings.append(
            f"the score was measured on only {held_back} held-back examples, so it is a rough estimate; "
            "give validation_examples for a better one"
        )
    return warnings
