"""Few-shot examples, and the checks that a dataset must pass before a task is tuned on it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ipt.data.names import MOST_NAMED, is_short_name, listed
from ipt.errors import DatasetError

TaskKind = Literal["classification", "multilabel", "text2text"]

MIN_LABELS = 2
MAX_LABELS = 200
MIN_EXAMPLES_PER_LABEL = 2
MIN_TEXT_PAIRS = 2
# A longer output is a text to generate, never the name of a class.
MAX_LABEL_CHARS = 200
# A visible character: no white space, no control character, and no Default_Ignorable_Code_Point of Unicode (zero-width
# spaces and joiners, direction marks, byte order marks).
VISIBLE = (
    r"[^\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8]"
)
VISIBLE_TEXT = re.compile(VISIBLE)
_LETTER = re.compile(r"[^\W\d_]")
MIN_LETTERS_OF_A_NAME = 2


@dataclass(frozen=True, slots=True)
class Example:
    """One few-shot example: an input text and its expected output, a label, a text or a set of labels."""

    input: str
    output: str

    @classmethod
    def with_labels(cls, text: str, labels: Iterable[str]) -> Example:
        """Return an example of a multi-label task; its output is the JSON list of the labels, sorted."""
        return cls(text, json.dumps(sorted(set(labels)), ensure_ascii=False))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of an example of a multi-label task.

        Raises:
            DatasetError: the output is no list of labels.
        """
        try:
            labels = json.loads(self.output)
        except (ValueError, RecursionError):
            labels = None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise DatasetError("the output must be a list of labels: write it with Example.with_labels", param="output")
        return tuple(labels)


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the distinct outputs in order of first appearance, which is the order of a task's classes."""
    return tuple(dict.fromkeys(example.output for example in examples))


def labels_in_sets(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels of a multi-label task in order of first appearance."""
    return tuple(dict.fromkeys(label for example in examples for label in example.labels))


def labels_of_kind(examples: Sequence[Example], kind: TaskKind) -> tuple[str, ...]:
    """Return the labels of a task of this kind, in order of first appearance; text to text has none."""
    if kind == "text2text":
        return ()
    return labels_in_sets(examples) if kind == "multilabel" else labels_of(examples)


def rarest_label(examples: Sequence[Example]) -> tuple[str, int]:
    """Return the output with the fewest examples, and its number of examples."""
    return Counter(example.output for example in examples).most_common()[-1]


def names_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels if they describe their classes; an empty tuple if any is a number, a symbol or a letter."""
    descriptive = all(len(_LETTER.findall(label)) >= MIN_LETTERS_OF_A_NAME for label in labels)
    return tuple(labels) if descriptive else ()


def check_texts(examples: Sequence[Example], validation_examples: Sequence[Example]) -> None:
    """Check that there are examples, and that every text of them can be tokenized and stored.

    Raises:
        DatasetError: they cannot; `param` names the field at fault.
    """
    if not examples:
        raise DatasetError("the dataset is empty: give at least two examples with different outputs", param="examples")
    empty = []
    for field, rows in (("examples", examples), ("validation_examples", validation_examples)):
        for index, example in enumerate(rows):
            if not isinstance(example, Example):
                raise DatasetError(
                    f"{field}[{index}] must be an ipt.Example(input, output), got {type(example).__name__}",
                    param=f"{field}[{index}]",
                )
            for name, text in (("input", example.input), ("output", example.output)):
                param = f"{field}[{index}].{name}"
                check_storable(text, param)
                if not VISIBLE_TEXT.search(text):
                    empty.append(param)
    if empty:
        verb = "is" if len(empty) == 1 else "are"
        raise DatasetError(f"{listed(empty)} {verb} empty: every input and output needs some text", param=empty[0])


def check_kind(examples: Sequence[Example], validation_examples: Sequence[Example], kind: TaskKind) -> None:
    """Check that a task of this kind can be tuned on the examples, whose texts have been checked.

    Raises:
        DatasetError: it cannot; `param` names the field at fault.
    """
    if kind == "classification":
        _check_labels(examples, validation_examples)
    elif kind == "multilabel":
        _check_label_sets(examples, validation_examples)
    elif kind == "text2text":
        if len(examples) < MIN_TEXT_PAIRS:
            raise DatasetError(f"text2text needs at least {MIN_TEXT_PAIRS} examples, got 1", param="examples")
    else:
        raise DatasetError(f"kind must be 'classification', 'multilabel' or 'text2text', got {kind!r}", param="kind")


def check_text(text: object, param: str) -> str:
    """Return the text if it can be tokenized and stored.

    Raises:
        DatasetError: it is not a string, has no visible character, or contains a NUL or a lone surrogate.
    """
    checked = check_storable(text, param)
    if not VISIBLE_TEXT.search(checked):
        raise DatasetError(f"{param} is empty: every input and output needs some text", param=param)
    return checked


def check_storable(text: object, param: str) -> str:
    """Return the text if it can be tokenized and stored; it may be empty.

    Raises:
        DatasetError: it is not a string, or contains a NUL or a lone surrogate.
    """
    fault = text_fault(text)
    if fault:
        raise DatasetError(f"{param} {fault}", param=param)
    assert isinstance(text, str)
    return text


def text_fault(text: object) -> str | None:
    """Return why a text, which may be empty, cannot be tokenized and stored; None if it can."""
    if not isinstance(text, str):
        return f"must be a string, got {type(text).__name__}"
    if "\x00" in text:
        return "contains a NUL character, which cannot be stored: remove it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate, which is not valid Unicode text"
    return None


def infer_kind(examples: Sequence[Example]) -> TaskKind:
    """Return "classification" if outputs repeat, with at least two examples per label on average; else "text2text"."""
    labels = labels_of(examples)
    short = all(len(label) <= MAX_LABEL_CHARS for label in labels)
    looks_like_labels = short and (len(labels) == 1 or len(labels) * 2 <= len(examples) or len(examples) <= 4)
    return "classification" if looks_like_labels else "text2text"


def _check_labels(examples: Sequence[Example], validation_examples: Sequence[Example]) -> None:
    for field, rows in (("examples", examples), ("validation_examples", validation_examples)):
        for index, example in enumerate(rows):
            if len(example.output) > MAX_LABEL_CHARS:
                raise DatasetError(
                    f"this label has {len(example.output)} characters, at most {MAX_LABEL_CHARS} are supported: "
                    "shorten it, or tune it as a text to write, on a backbone that writes text",
                    param=f"{field}[{index}].output",
                )
    if len(examples) == 1:
        raise DatasetError(
            "the dataset has a single example: give at least 2 examples of each of 2 labels, or, for text to text, "
            f"{MIN_TEXT_PAIRS} pairs of texts",
            param="examples[0]",
        )
    counts = Counter(example.output for example in examples)
    if len(counts) < MIN_LABELS:
        raise DatasetError(
            f"all examples have the same output: a classifier needs at least {MIN_LABELS} labels", param="examples"
        )
    if len(counts) > MAX_LABELS:
        first = [example.output for example in examples].index(list(counts)[MAX_LABELS])
        raise DatasetError(
            f"the examples have {len(counts)} labels, at most {MAX_LABELS} are supported: "
            "merge labels, or tune them as texts to write, on a backbone that writes text",
            param=f"examples[{first}].output",
        )
    _check_no_single_example(examples, counts)
    unknown = [index for index, example in enumerate(validation_examples) if example.output not in counts]
    if unknown:
        named = _named_labels(validation_examples, unknown, "validation_examples")
        raise DatasetError(
            f"labels of validation examples that do not occur among the training examples: {named}",
            param=f"validation_examples[{unknown[0]}].output",
        )


def check_label_lists(examples: Sequence[Example], validation_examples: Sequence[Example]) -> None:
    """Check that every output is a list of labels that can be stored.

    Raises:
        DatasetError: one is not; `param` names it.
    """
    for field, rows in (("examples", examples), ("validation_examples", validation_examples)):
        for index, example in enumerate(rows):
            _check_label_list(example, f"{field}[{index}].output")


def _check_label_sets(examples: Sequence[Example], validation_examples: Sequence[Example]) -> None:
    check_label_lists(examples, validation_examples)
    counts = Counter(label for example in examples for label in example.labels)
    if not counts:
        raise DatasetError("no example has a label: give at least 2 examples of each label", param="examples")
    if len(counts) > MAX_LABELS:
        further = list(counts)[MAX_LABELS]
        first = next(index for index, example in enumerate(examples) if further in example.labels)
        raise DatasetError(
            f"the examples have {len(counts)} labels, at most {MAX_LABELS} are supported: merge labels",
            param=f"examples[{first}].output",
        )
    most = len(examples) - MIN_EXAMPLES_PER_LABEL
    for index, example in enumerate(examples):
        for label in example.labels:
            if MIN_EXAMPLES_PER_LABEL <= counts[label] <= most:
                continue
            name = f"the label {label!r}" if is_short_name(label) else "one of these labels"
            fault = "has a single example: give at least 2 examples of every label"
            if counts[label] > most:
                fault = f"belongs to {counts[label]} of {len(examples)} examples: give at least 2 examples without it"
            raise DatasetError(f"{name} {fault}", param=f"examples[{index}].output")
    for index, example in enumerate(validation_examples):
        unknown = [label for label in example.labels if label not in counts]
        if unknown:
            names = ", ".join(repr(label) for label in unknown if is_short_name(label))
            raise DatasetError(
                f"validation examples have labels that no training example has{names and f': {names}'}",
                param=f"validation_examples[{index}].output",
            )


def _check_label_list(example: Example, param: str) -> None:
    try:
        labels = example.labels
    except DatasetError as error:
        raise DatasetError(error.message, param=param) from None
    for label in labels:
        check_text(label, param)
        if len(label) > MAX_LABEL_CHARS:
            raise DatasetError(
                f"a label has {len(label)} characters, at most {MAX_LABEL_CHARS} are supported: shorten it", param=param
            )


def _check_no_single_example(examples: Sequence[Example], counts: Counter[str]) -> None:
    single = [index for index, example in enumerate(examples) if counts[example.output] < MIN_EXAMPLES_PER_LABEL]
    if not single:
        return
    advice = "give at least 2 examples of every label"
    if len(single) == len(examples):
        advice += "; or, if the outputs are texts to write, tune on a backbone that writes text"
    subject = "this label has" if len(single) == 1 else f"{len(single)} labels have"
    raise DatasetError(
        f"{subject} a single example: {_named_labels(examples, single, 'examples')}: {advice}",
        param=f"examples[{single[0]}].output",
    )


def _named_labels(examples: Sequence[Example], indices: Sequence[int], field: str) -> str:
    """Return the places of the examples, each with its label if that is short, and how many more there are."""
    labels = [examples[index].output for index in indices[:MOST_NAMED]]
    names = [
        f"{label!r} ({field}[{index}])" if is_short_name(label) else f"{field}[{index}]"
        for index, label in zip(indices, labels, strict=False)
    ]
    more = len(indices) - MOST_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
