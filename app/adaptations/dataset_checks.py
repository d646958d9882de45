"""Check the examples of a request: limits, kinds of task, and labels that are probably mistakes."""

import unicodedata
from collections.abc import Callable

import ipt
from app.adaptations.schemas import AdaptationInput, ExampleInput
from app.db.models import Kind
from app.errors import InvalidError
from app.http.text_limits import check_text_length
from app.settings import Settings
from ipt.data.examples import MAX_LABEL_CHARS, MAX_LABELS
from ipt.errors import DatasetError

_MAX_NAMED_PAIRS = 5
"""Most pairs of examples that one warning names."""


def check_dataset(settings: Settings, body: AdaptationInput) -> Kind:
    """Return the kind of task that the examples are for.

    Raises:
        InvalidError: the examples exceed a limit, or no task can be tuned on them.
    """
    fields = {"examples": body.examples, "validation_examples": body.validation_examples or []}
    total = sum(map(len, fields.values()))
    if total > settings.max_examples:
        raise InvalidError(
            f"at most {settings.max_examples} examples in total, got {total}",
            code="too_many_examples",
            param="examples",
        )
    for name, examples in fields.items():
        for index, example in enumerate(examples):
            for part in ("input", "output"):
                check_text_length(settings, getattr(example, part), f"{name}[{index}].{part}")
    validation = None if body.validation_examples is None else _to_core(body.validation_examples)
    try:
        kind = ipt.check_examples(_to_core(body.examples), validation, body.kind)
    except DatasetError as error:
        # A label that is rare or unknown may be another label in a different spelling: report that instead.
        _check_labels_differ(fields)
        raise InvalidError(error.message, code="invalid_dataset", param=error.param) from error
    if kind == "classification":
        _check_labels_differ(fields)
    labels = {example.output for example in body.examples}
    if kind == "classification" and len(labels) > settings.max_labels:
        raise InvalidError(
            f"at most {settings.max_labels} labels, got {len(labels)}", code="too_many_labels", param="examples"
        )
    return kind


def contradictions(body: AdaptationInput, place_of: Callable[[str], str]) -> list[str]:
    """Return a warning if a text has two labels: a dataset may be noisy, but most often one label is a mistake.

    `place_of` returns the caller's name for a place such as `examples[3]`.
    """
    first_of: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, examples in (("examples", body.examples), ("validation_examples", body.validation_examples or [])):
        for index, example in enumerate(examples):
            place = f"{name}[{index}]"
            label, first = first_of.setdefault(example.input.strip(), (example.output, place))
            if label != example.output:
                pairs.append(f"{place_of(place)} and {place_of(first)}")
    if not pairs:
        return []
    more = f", and {len(pairs) - _MAX_NAMED_PAIRS} more" if len(pairs) > _MAX_NAMED_PAIRS else ""
    named = ", ".join(pairs[:_MAX_NAMED_PAIRS])
    return [f"the same text has different labels in {named}{more}: fix them if that is a mistake"]


def _to_core(examples: list[ExampleInput]) -> list[ipt.Example]:
    return [ipt.Example(example.input, example.output) for example in examples]


def _check_labels_differ(fields: dict[str, list[ExampleInput]]) -> None:
    """Reject labels that look the same: they are almost always a mistake, and answers would be ambiguous.

    Labels that are too many or too long get another error. They are not compared, since normalizing a text can take
    time quadratic in its length.
    """
    place_of: dict[str, str] = {}
    for name, examples in fields.items():
        for index, example in enumerate(examples):
            place_of.setdefault(example.output, f"{name}[{index}]")
    if len(place_of) > MAX_LABELS:
        return
    first_of: dict[str, str] = {}
    for label, place in place_of.items():
        if len(label) > MAX_LABEL_CHARS:
            continue
        first = first_of.setdefault(unicodedata.normalize("NFC", label.strip()), place)
        if first != place:
            raise InvalidError(
                f"this label and that of {first} differ only in surrounding white space or in Unicode "
                "normalization: write both the same way",
                code="labels_alike",
                param=f"{place}.output",
            )
