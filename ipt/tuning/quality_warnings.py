"""Warnings about the quality of an adaptation, derived from its scores."""

from __future__ import annotations

from collections.abc import Sequence

from ipt.data.names import is_short_name, listed
from ipt.readout.label_errors import Suspect, SuspectLabel
from ipt.tuning.label_scores import LabelScores
from ipt.tuning.label_set_scores import LabelSetScores

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
    of_labels: LabelScores | LabelSetScores | None = None,
    measure: str = "right",
    unknown_tokens: float = 0.0,
) -> list[str]:
    """Warn if the task is worse than the baseline, if it beats neither baseline, and if few examples were measured.

    If the backbone cannot read the texts, the warnings say so and ask for no further examples, which would not help.

    Args:
        score, start, baseline: the `measure` after tuning, before tuning and without a prompt; None if nothing could be
            measured.
        held_back: number of held-back examples they were measured on.
        of_labels: the scores label by label, if the task has labels.
        measure: what the three are.
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
            f"on {held_back} held-back examples the tuned task is {fault}: {score:.1%} {measure}, {start:.1%} "
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
    if len(places) < FEW_HELD_BACK:
        return []
    return _suspect_warning([(places[each.row], _quoted("rather", labels[each.likely])) for each in clear])


def label_set_suspect_warnings(
    suspects: Sequence[SuspectLabel], places: Sequence[str], labels: Sequence[str]
) -> list[str]:
    """Warn of examples of a multi-label task that clearly lack a label or have one too many, as `suspect_warnings`."""
    if len(places) < FEW_HELD_BACK:
        return []
    clear = [each for each in suspects if each.probability >= SURE]
    return _suspect_warning(
        [(places[each.row], _quoted("with" if each.belongs else "without", labels[each.label])) for each in clear]
    )


def _quoted(what: str, label: str) -> str:
    return f" ({what} {label!r})" if is_short_name(label) else ""


def _suspect_warning(named: Sequence[tuple[str, str]]) -> list[str]:
    """Return a warning about examples at some places, each with what it should rather be."""
    if not named:
        return []
    count = "1 example has" if len(named) == 1 else f"{len(named)} examples have"
    listing = listed([f"{place}{rather}" for place, rather in named])
    return [f"{count} perhaps a wrong label, by what the other examples say: {listing}"]


def pair_warnings(pairs: Sequence[tuple[int, int]], places: Sequence[str]) -> list[str]:
    """Warn of examples that hardly differ and have different labels."""
    if not pairs:
        return []
    named = listed([f"{places[first]} and {places[second]}" for first, second in pairs])
    return [f"texts with different labels hardly differ for the backbone: {named}; fix their labels if one is wrong"]
