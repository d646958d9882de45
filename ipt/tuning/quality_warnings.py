"""Warnings about the quality of an adaptation, derived from its scores."""

from __future__ import annotations

from collections.abc import Sequence

from ipt.data.names import is_short_name, listed
from ipt.readout.label_errors import Suspect
from ipt.tuning.label_scores import LabelScores

FEW_HELD_BACK = 20
UNREADABLE = 0.5
"""Share of unknown tokens from which on the backbone cannot read the texts."""
SURE = 0.8
"""Probability of another label from which a warning names the example."""


def quality_warnings(
    score: float | None,
    start: float | None,
    baseline: float | None,
    held_back: int,
    of_labels: LabelScores | None = None,
    unknown_tokens: float = 0.0,
) -> list[str]:
    """Warn if the task is worse than the baseline, if it beats neither baseline, and if few examples were measured.

    If the backbone cannot read the texts, the warnings say so and ask for no further examples, which would not help.

    Args:
        score, start, baseline: shares of right answers after tuning, before tuning and without a prompt; None if
            nothing could be measured.
        held_back: number of held-back examples they were measured on.
        of_labels: the scores label by label, if the task is a classification.
        unknown_tokens: the share of tokens that the backbone does not know.
    """
    if unknown_tokens >= UNREADABLE:
        guessing = [of_labels.guessing_warning()] if of_labels is not None and of_labels.is_guessing else []
        unreadable = (
            f"the backbone cannot read the script of these texts: {unknown_tokens:.0%} of their tokens are unknown to "
            "it. More examples do not help; use a multilingual backbone"
        )
        return [unreadable, *guessing]
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


def suspect_warnings(suspects: Sequence[Suspect], places: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Warn of examples that are clearly of another label, unless few are measured, which says little of any.

    `places` [M] are those of the measured examples.
    """
    clear = [suspect for suspect in suspects if suspect.likely_probability >= SURE]
    if not clear or len(places) < FEW_HELD_BACK:
        return []
    rather = {label: f" (rather {label!r})" if is_short_name(label) else "" for label in labels}
    named = listed([f"{places[suspect.row]}{rather[labels[suspect.likely]]}" for suspect in clear])
    count = "1 example has" if len(clear) == 1 else f"{len(clear)} examples have"
    return [f"{count} perhaps a wrong label, by what the other examples say: {named}"]


def pair_warnings(pairs: Sequence[tuple[int, int]], places: Sequence[str]) -> list[str]:
    """Warn of examples that hardly differ and have different labels."""
    if not pairs:
        return []
    named = listed([f"{places[first]} and {places[second]}" for first, second in pairs])
    return [f"texts with different labels hardly differ for the backbone: {named}; fix their labels if one is wrong"]
