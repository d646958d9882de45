"""One rule for labels that look alike: which labels are one label in several spellings, and how they are unified."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ipt.data.examples import MAX_LABEL_CHARS, MAX_LABELS, MIN_LABELS, Example, labels_of
from ipt.data.names import is_short_name, listed
from ipt.errors import DatasetError

# Default_Ignorable_Code_Point of Unicode: zero-width spaces and joiners, direction marks, byte order marks.
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8]"
)
_SEPARATORS_WITHIN = re.compile(r"(?<=\w)[\s_\-\u2010-\u2015\u2212]+(?=\w)")
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")
_JOINED_BY = re.compile(r"\s*([#|;,/+&])\s*")
_ALWAYS_JOIN = ("|", "#")
_MAY_BE_MISSING = frozenset(
    ["na", "n/a", "<na>", "#n/a", "nan", "none", "null", "nil", "(null)", "(blank)", "-", "--", "?"]
)
_MAX_COMPARED = 2 * MAX_LABELS
OUT_OF_SCOPE = "out_of_scope"
"""The output, in any spelling, of texts that belong to no label; text backbones learn it as a label."""


def labels_alike(first: str, second: str) -> bool:
    """Return whether two labels differ only in ways that are almost always a mistake.

    These are case, blanks around the label, invisible characters, the Unicode form, hyphens, underscores and blanks
    between words, and a whole number with and without `.0`.
    """
    return _key(first) == _key(second)


def is_out_of_scope(output: str) -> bool:
    """Return whether an output says that its text belongs to no label."""
    return len(output) <= MAX_LABEL_CHARS and labels_alike(output, OUT_OF_SCOPE)


def labels_in_scope(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels of a task on an encoder: all outputs but `OUT_OF_SCOPE`.

    Raises:
        DatasetError: too few labels are left.
    """
    labels = tuple(label for label in labels_of(examples) if not is_out_of_scope(label))
    if len(labels) < MIN_LABELS:
        raise DatasetError(
            f"texts of {OUT_OF_SCOPE!r} belong to no label: give examples of at least {MIN_LABELS} labels besides, got "
            f"{len(labels)}",
            param="examples",
        )
    return labels


def matching_labels(outputs: Iterable[str], labels: Sequence[str]) -> dict[str, str]:
    """Map each output that is one of the labels, in this or another spelling, to that label."""
    exact = set(labels)
    by_key = {_key(label): label for label in labels}
    matching = {}
    for output in dict.fromkeys(outputs):
        if output in exact:
            matching[output] = output
        elif len(output) <= MAX_LABEL_CHARS and _key(output) in by_key:
            matching[output] = by_key[_key(output)]
    return matching


def unify_labels(
    examples: Sequence[Example], validation_examples: Sequence[Example]
) -> tuple[list[Example], list[Example], list[str]]:
    """Return the examples with the most frequent spelling of every label, and a warning that names the spellings.

    Labels that are too many or too long are not compared, since normalizing a text can take time quadratic in its
    length; they are errors anyway.
    """
    counts = Counter(example.output for example in examples)
    unified, warnings = _unified(counts, _first_places(examples, validation_examples, lambda example: [example.output]))
    return _relabeled(examples, unified), _relabeled(validation_examples, unified), warnings


def unify_label_sets(
    examples: Sequence[Example], validation_examples: Sequence[Example]
) -> tuple[list[Example], list[Example], list[str]]:
    """Return the same as `unify_labels`, for the examples of a multi-label task."""
    counts = Counter(label for example in examples for label in example.labels)
    unified, warnings = _unified(counts, _first_places(examples, validation_examples, lambda example: example.labels))

    def relabeled(rows: Sequence[Example]) -> list[Example]:
        return [
            Example.with_labels(example.input, (unified.get(label, label) for label in example.labels))
            for example in rows
        ]

    return relabeled(examples), relabeled(validation_examples), warnings


def label_warnings(labels: Sequence[str]) -> list[str]:
    """Return warnings about labels that may stand for missing ones, joined labels, and numbers as labels."""
    warnings = []
    if missing := [repr(label) for label in labels if label.strip().casefold() in _MAY_BE_MISSING]:
        warnings.append(
            f"{listed(missing)} may mean that a label is missing, but each is learned as a label: if it means that, "
            "remove its examples"
        )
    for separator, joined in _joined(labels).items():
        warnings.append(
            f"{listed([repr(label) for label in joined])}: several labels joined by {separator!r}? Each is learned as "
            f"a label of its own; to learn them separately, send kind multilabel and label_separator {separator!r}"
        )
    if len(labels) > 2 and all(_is_number(label) for label in labels):
        warnings.append(
            f"all {len(labels)} labels are numbers: they are learned as names without an order, and their meaning is "
            "not read; if they stand for classes, write the names of the classes"
        )
    return warnings


def _key(label: str) -> str:
    key = _INVISIBLE.sub("", unicodedata.normalize("NFC", label.casefold())).strip()
    number = _WHOLE_NUMBER.fullmatch(key)
    return number[1] if number else _SEPARATORS_WITHIN.sub(" ", key)


def _first_places(
    examples: Sequence[Example], validation_examples: Sequence[Example], labels: Callable[[Example], Iterable[str]]
) -> dict[str, str]:
    """Return the place where each label occurs first, in that order."""
    places: dict[str, str] = {}
    for name, rows in (("examples", examples), ("validation_examples", validation_examples)):
        for index, example in enumerate(rows):
            for label in labels(example):
                places.setdefault(label, f"{name}[{index}]")
    return places


def _unified(counts: Counter[str], first_places: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the most frequent spelling of each label that has several, and a warning that names them."""
    if len(first_places) > _MAX_COMPARED:
        return {}, []
    groups: dict[str, list[str]] = {}
    for label in first_places:
        if len(label) <= MAX_LABEL_CHARS:
            groups.setdefault(_key(label), []).append(label)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return {}, []
    unified = {label: max(group, key=counts.__getitem__) for group in alike for label in group}
    described = [_described(group, unified[group[0]], first_places) for group in alike]
    warning = (
        "labels that differ only in case, blanks, hyphens, invisible characters or Unicode form are read as one: "
        f"{'; '.join(described[:10])}{f'; and {len(described) - 10} more labels' if len(described) > 10 else ''}"
    )
    return unified, [warning]


def _relabeled(examples: Sequence[Example], unified: Mapping[str, str]) -> list[Example]:
    return [
        replace(example, output=unified[example.output]) if example.output in unified else example
        for example in examples
    ]


def _described(group: Sequence[str], kept: str, first_places: Mapping[str, str]) -> str:
    """Return the spellings of one label, with escapes if they look the same."""
    looks = {unicodedata.normalize("NFC", repr(label)) for label in group}
    show = repr if len(looks) == len(group) else ascii
    names = [show(label) if is_short_name(label) else f"the label of {first_places[label]}" for label in group]
    others = [
        f"{name} ({first_places[label]})" if is_short_name(label) else name
        for label, name in zip(group, names, strict=True)
        if label != kept
    ]
    return f"{listed(others)} as {names[group.index(kept)]}"


def _joined(labels: Sequence[str]) -> dict[str, list[str]]:
    """Return, by separator, the labels that consist of several parts.

    Bars and hashes always join labels. Other separators do if at least one part is a label too.
    """
    names = set(labels)
    joined: dict[str, list[str]] = {}
    for label in labels:
        parts = _JOINED_BY.split(label)
        if len(parts) == 1 or not all(parts) or not is_short_name(label):
            continue
        if parts[1] in _ALWAYS_JOIN or not names.isdisjoint(parts[::2]):
            joined.setdefault(parts[1], []).append(label)
    return joined


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", ".", 1))
    except ValueError:
        return False
    return label.strip()[:1] not in ("n", "i", "N", "I")
