"""Warnings about the quality of an adaptation, derived from its scores."""

from __future__ import annotations

from ipt.tuning.label_scores import LabelScores

FEW_HELD_BACK = 20


def quality_warnings(
    score: float | None,
    start: float | None,
    baseline: float | None,
    held_back: int,
    of_labels: LabelScores | None = None,
) -> list[str]:
    """Warn if the task is worse than the baseline, if it beats neither baseline, and if few examples were measured.

    Args:
        score, start, baseline: shares of right answers after tuning, before tuning and without a prompt; None if
            nothing could be measured.
        held_back: number of held-back examples they were measured on.
        of_labels: the scores label by label, if the task is a classification.
    """
    if score is None or start is None or baseline is None:
        return [
            "too few different texts to hold any back, so nothing was measured; give validation_examples for a score"
        ]
    warnings = [] if of_labels is None else of_labels.warnings()
    if score < baseline or score == baseline <= start:
        fault = "worse than it would be without a prompt" if score < baseline else "no better than its baselines"
        warnings.append(
            f"on {held_back} held-back examples the tuned task is {fault}: {score:.1%} right, {start:.1%} "
            f"before tuning, {baseline:.1%} without a prompt"
            + ("" if of_labels is not None and of_labels.is_guessing else "; more examples may make a difference")
        )
    if held_back < FEW_HELD_BACK:
        warnings.append(
            f"the score was measured on only {held_back} held-back examples, so it is a rough estimate; "
            "give validation_examples for a better one"
        )
    return warnings
