"""Check the examples of a request: the limits of the settings, and whether a task can be tuned on them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ipt
from app.adaptations.schemas import DatasetInput, ExampleInput, LabelSet
from app.errors import InvalidError
from app.http.text_limits import check_text_length
from app.settings import Settings
from ipt.data.examples import MAX_LABEL_CHARS, labels_of_kind
from ipt.data.labels import labels_in_scope
from ipt.data.names import is_short_name, listed
from ipt.data.preparation import PreparedDataset, doubt_about_outputs, prepare
from ipt.errors import DatasetError


def prepare_dataset(settings: Settings, body: DatasetInput, family: ipt.Family | None) -> PreparedDataset:
    """Return the examples that a task is tuned on, the kind of the task, and warnings.

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
    for name, rows in fields.items():
        for index, example in enumerate(rows):
            check_text_length(settings, example.output, f"{name}[{index}].output")
    kind = body.kind or kind_of_lists(fields)
    if kind != "multilabel" and kind_of_lists(fields):
        raise InvalidError(
            "an output is a list of labels, which only tasks of the kind multilabel have: send that kind, or one label",
            code="invalid_dataset",
            param="kind",
        )
    examples, all_validation = (core_examples(rows, settings.max_text_chars, family, kind) for rows in fields.values())
    validation = None if body.validation_examples is None else all_validation
    try:
        dataset = prepare(examples, validation, kind)
        if family == "encoder" and dataset.kind == "classification":
            labels_in_scope(dataset.examples)
    except DatasetError as error:
        raise InvalidError(error.message, code="invalid_dataset", param=error.param) from error
    labels = labels_of_kind(dataset.examples, dataset.kind)
    if dataset.kind != "text2text" and len(labels) > settings.max_labels:
        too_many, known = f"at most {settings.max_labels} labels, got {len(labels)}", set(labels[: settings.max_labels])
        if kind is not None or family in ("encoder", None):
            advice = (
                ": merge some"
                if family != "encoder"
                else (": merge some, or use a service whose backbone writes text, which tunes the outputs as texts")
            )
            first = next(
                i for i, row in enumerate(dataset.examples) if set(labels_of_kind([row], dataset.kind)) - known
            )
            raise InvalidError(too_many + advice, code="too_many_labels", param=f"examples[{first}].output")
        texts = prepare(examples, validation, "text2text")
        dataset = replace(texts, warnings=[f"{too_many}: the outputs are tuned as texts", *texts.warnings])
    if dataset.kind == "multilabel" and family not in ("encoder", None):
        raise InvalidError(
            "The backbone writes text, not several labels at once: use a service with an encoder, or write the labels "
            "as one text",
            code="kind_not_supported",
            param="kind" if body.kind else f"examples[{_first_list(body.examples)}].output",
        )
    if dataset.kind == "text2text" and family == "encoder":
        doubt = doubt_about_outputs(dataset.examples)
        first, why_text = _first_text(dataset.examples)
        raise InvalidError(
            f"{doubt or why_text}. The backbone is an encoder, which classifies but does not write text: outputs must "
            "be labels, with at least two examples of each",
            code="kind_not_supported",
            param="kind" if body.kind or doubt else f"examples[{first}].output",
        )
    return replace(dataset, warnings=[*dataset.warnings, *_cut_warnings(settings, fields)])


def _first_list(examples: Sequence[ExampleInput]) -> int:
    return next((index for index, example in enumerate(examples) if isinstance(example.output, LabelSet)), 0)


def _first_text(examples: Sequence[ipt.Example]) -> tuple[int, str]:
    """Return the number of the first example whose output makes the task text to text, and why it does.

    A single long output does so; otherwise the outputs that occur once do.
    """
    for index, example in enumerate(examples):
        if len(example.output) > MAX_LABEL_CHARS:
            return index, f"this output has {len(example.output)} characters, a label at most {MAX_LABEL_CHARS}"
    counts = Counter(example.output for example in examples)
    single = [index for index, example in enumerate(examples) if counts[example.output] == 1]
    if not single:
        return 0, "the kind is text2text"
    output = examples[single[0]].output
    named = f"the output {output!r}" if is_short_name(output) else "this output"
    return single[0], f"{named} has a single example"


def kind_of_lists(fields: Mapping[str, Sequence[ExampleInput]]) -> ipt.TaskKind | None:
    """Return "multilabel" if any output is a list, None otherwise."""
    is_any_list = any(isinstance(example.output, LabelSet) for rows in fields.values() for example in rows)
    return "multilabel" if is_any_list else None


def core_examples(
    examples: Sequence[ExampleInput], max_chars: int, family: ipt.Family | None, kind: ipt.TaskKind | None = None
) -> list[ipt.Example]:
    """Return the examples, whose inputs are cut to `max_chars` at the end that the backbone does not read."""
    kept = slice(-max_chars, None) if family == "causal" else slice(max_chars)
    core = [ipt.Example(example.input[kept], str(example.output)) for example in examples]
    return [with_labels(example) for example in core] if kind == "multilabel" else core


def with_labels(example: ipt.Example) -> ipt.Example:
    """Return the example of a multi-label task; an output that is no list is its only label."""
    try:
        return ipt.Example.with_labels(example.input, example.labels)
    except DatasetError:
        return ipt.Example.with_labels(example.input, [example.output])


def _cut_warnings(settings: Settings, fields: Mapping[str, Sequence[ExampleInput]]) -> list[str]:
    cut = [
        f"{name}[{index}]"
        for name, rows in fields.items()
        for index, example in enumerate(rows)
        if len(example.input) > settings.max_text_chars
    ]
    if not cut:
        return []
    count = "1 text is" if len(cut) == 1 else f"{len(cut)} texts are"
    return [f"{count} cut to {settings.max_text_chars} characters: {listed(cut)}"]
