"""What an adaptation says of its own quality, beside its scores."""

from __future__ import annotations

FEW_HELD_BACK = 20


def quality_warnings(
    score: float | None, zero_vector: float | None, baseline: float | None, held_back: int
) -> list[str]:
    """Warn when tuning beat neither the zero vector nor the baseline, and when little or nothing was measured on.

    Args:
        score, zero_vector, baseline: shares of right answers; None when nothing could be measured.
        held_back: examples they were measured on; 0 when each example was measured by leaving it out.
    """
    if score is None or zero_vector is None or baseline is None:
        return ["too few examples to hold any back, so nothing was measured; give validation_examples for a score"]
    warnings = []
    if score <= baseline and score <= zero_vector:
        warnings.append(
            f"tuning did not help: score {score:.3f}, against {zero_vector:.3f} with the zero vector and "
            f"{baseline:.3f} without a prompt; more, or cleaner, examples may"
        )
    if 0 < held_back < FEW_HELD_BACK:
        warnings.append(
            f"the score was measured on {held_back} held-back examples only, so it is rough; "
            "give validation_examples for a better estimate"
        )
    return warnings
