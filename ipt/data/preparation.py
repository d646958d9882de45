"""Prepare a dataset for tuning: check it, unify its labels, and warn of what is probably a mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ipt.data.examples import (
    Example,
    TaskKind,
    check_kind,
    check_label_lists,
    check_texts,
    infer_kind,
    labels_in_sets,
    labels_of,
)
from ipt.data.labels import label_warnings, unify_label_sets, unify_labels
from ipt.data.names import listed
from ipt.data.near_duplicates import TextFolding, new_rows
from ipt.errors import DatasetError

_MAX_NAMED_PAIRS = 5
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{1,2}:\d{2}")
_NUMBER = re.compile(r"[+-]?\d{1,20}(?:[.,]\d{1,20})?%?")
_LARGELY = 0.8
_HOW_COMPARED = "texts are compared without case, accents and punctuation, as an uncased model reads them"


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset that can be tuned on."""

    kind: TaskKind
    examples: list[Example]
    validation_examples: list[Example] | None
    warnings: list[str]
    """Places in them are written as `examples[3]`."""


def prepare(
    examples: Sequence[Example], validation_examples: Sequence[Example] | None = None, kind: TaskKind | None = None
) -> PreparedDataset:
    """Check a dataset, unify labels that differ only in their spelling, and collect warnings.

    Raises:
        DatasetError: the dataset cannot be tuned on; `param` names the field at fault.
    """
    validation = validation_examples or ()
    check_texts(examples, validation)
    if kind == "multilabel":
        check_label_lists(examples, validation)
        unified, unified_validation, warnings = unify_label_sets(examples, validation)
        check_kind(unified, unified_validation, kind)
        warnings += label_warnings(labels_in_sets(unified))
        warnings += _no_label_warnings(unified)
        warnings += text_warnings(unified, unified_validation)
        return _prepared(kind, unified, None if validation_examples is None else unified_validation, warnings)
    unified, unified_validation, warnings = unify_labels(examples, validation)
    kind = kind or infer_kind(unified)
    if kind == "classification":
        check_kind(unified, unified_validation, kind)
        warnings += label_warnings(labels_of(unified))
        warnings += text_warnings(unified, unified_validation)
    else:
        unified, unified_validation, warnings = list(examples), list(validation), []
        check_kind(unified, unified_validation, kind)
        doubt = doubt_about_outputs(unified)
        warnings += [doubt] if doubt else []
    return _prepared(kind, unified, None if validation_examples is None else unified_validation, warnings)


def label_counts(dataset: PreparedDataset) -> dict[str, int]:
    """Return the number of examples of each label; empty for text to text."""
    if dataset.kind == "text2text":
        return {}
    if dataset.kind == "multilabel":
        return Counter(label for example in dataset.examples for label in example.labels)
    return Counter(example.output for example in dataset.examples)


def _prepared(
    kind: TaskKind, examples: list[Example], validation_examples: list[Example] | None, warnings: list[str]
) -> PreparedDataset:
    """Return the dataset, with a warning about validation examples that are training examples too."""
    validation = validation_examples or []
    new = new_rows(validation, examples)
    if len(new) < len(validation):
        measured = "" if new else "; the score is measured on held-back training examples instead"
        warnings.append(
            f"{len(validation) - len(new)} of {len(validation)} validation examples are also among the training "
            f"examples, so they are not measured{measured} ({_HOW_COMPARED})"
        )
    return PreparedDataset(kind, examples, validation_examples, warnings)


def _no_label_warnings(examples: Sequence[Example]) -> list[str]:
    without = [f"examples[{index}]" for index, example in enumerate(examples) if not example.labels]
    if not without:
        return []
    count = "1 example has" if len(without) == 1 else f"{len(without)} examples have"
    return [f"{count} no label, and count as texts that belong to none of the labels: {listed(without)}"]


def check_examples(
    examples: Sequence[Example],
    validation_examples: Sequence[Example] | None = None,
    kind: TaskKind | None = None,
) -> TaskKind:
    """Check a dataset as `adapt` does, and return the kind of its task.

    Labels that differ only in their spelling count as one label, as in `adapt`; `prepare` also returns the unified
    examples and the warnings.

    Args:
        examples: the training examples.
        validation_examples: held-back examples, if the caller has any.
        kind: None: inferred (`infer_kind`).

    Raises:
        DatasetError: the dataset cannot be tuned on; `param` names the field at fault.
    """
    return prepare(examples, validation_examples, kind).kind


def check_unified(
    examples: Sequence[Example], validation_examples: Sequence[Example] | None, kind: TaskKind | None
) -> TaskKind:
    """Check a dataset that is tuned as it is, as `check_examples` does.

    Raises:
        DatasetError: as in `check_examples`, or some labels differ only in their spelling.
    """
    validation = validation_examples or ()
    check_texts(examples, validation)
    kind = kind or infer_kind(examples)
    check_kind(examples, validation, kind)
    spellings = unify_labels(examples, validation)[2] if kind == "classification" else []
    if spellings:
        raise DatasetError(f"{spellings[0]}: use one spelling, or the examples of `ipt.prepare`", param="examples")
    return kind


def text_warnings(examples: Sequence[Example], validation_examples: Sequence[Example]) -> list[str]:
    """Return warnings about texts that occur several times, as an uncased model reads them.

    Texts with different labels are probably a mistake. Repeated texts add nothing.
    """
    folding = TextFolding()
    first_of: dict[str, tuple[str, str, str]] = {}
    pairs: list[str] = []
    repeated = 0
    for field, rows in (("examples", examples), ("validation_examples", validation_examples)):
        for index, example in enumerate(rows):
            place = f"{field}[{index}]"
            first = first_of.setdefault(folding.key(example.input), (example.output, place, field))
            if first[1] == place:
                continue
            if first[0] != example.output:
                pairs.append(f"{place} and {first[1]}")
            elif first[2] == field:
                repeated += 1
    warnings = []
    if pairs:
        more = f", and {len(pairs) - _MAX_NAMED_PAIRS} more" if len(pairs) > _MAX_NAMED_PAIRS else ""
        warnings.append(
            f"the same text has different labels in {', '.join(pairs[:_MAX_NAMED_PAIRS])}{more}: fix them if that is a "
            f"mistake ({len(pairs)} in all; {_HOW_COMPARED})"
        )
    if repeated:
        total = len(examples) + len(validation_examples)
        warnings.append(
            f"{repeated} of {total} examples repeat the text of an earlier one and add nothing ({_HOW_COMPARED})"
        )
    return warnings


def doubt_about_outputs(examples: Sequence[Example]) -> str | None:
    """Return why outputs that hardly repeat are probably neither labels nor texts to write, None if nothing says so."""
    outputs = [example.output for example in examples]
    if _share(outputs, _NUMBER) >= _LARGELY:
        return (
            "almost every output is a different number: scores cannot be learned as labels; group them into a few "
            "labels, such as low and high"
        )
    if _share([output[:40] for output in outputs], _DATE) >= _LARGELY:
        return "almost every output is a date or a time: is another column the label?"
    if len({example.input for example in examples}) * 2 <= len(examples) <= len(set(outputs)) / _LARGELY:
        return "almost every label occurs once, but the texts repeat: are the columns swapped?"
    return None


def _share(texts: Sequence[str], pattern: re.Pattern[str]) -> float:
    whole = pattern is _NUMBER
    matches = [pattern.fullmatch(text.strip()) if whole else pattern.match(text.strip()) for text in texts]
    return sum(match is not None for match in matches) / len(texts)
