"""Recognize the JSON formats of annotation tools and chats, and read the text and the label of each record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipt.data.files.columns import is_usual_input

Record = dict[str, Any]

NOT_ANNOTATED = "not annotated"
_ANSWERS = ("accept", "reject", "ignore")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a record holds: a text and a label, either of which may be missing, or a reason to skip the record."""

    text: object = None
    label: object = None
    skip: str | None = None


@dataclass(frozen=True, slots=True)
class AnnotationFormat:
    name: str
    found_in: Callable[[Sequence[Record]], bool]
    read: Callable[[Record], Reading]
    """Also reads records of the file that are not annotated."""


def recognize(records: Sequence[Record]) -> AnnotationFormat | None:
    """Return the format of these records, None if they are plain rows."""
    return next((known for known in _FORMATS if records and known.found_in(records)), None)


def rejection(record: Mapping[str, Any]) -> str | None:
    """Return why an annotator's answer excludes a record, None if it does not."""
    answer = record.get("answer")
    return f"answered with {answer}" if answer in _ANSWERS[1:] else None


def _is_label_studio(record: Record) -> bool:
    return isinstance(record.get("data"), dict) and isinstance(
        record.get("annotations", record.get("completions")), list
    )


def _read_label_studio(record: Record) -> Reading:
    annotations = record.get("annotations", record.get("completions"))
    entries = [entry for entry in annotations if isinstance(entry, dict)] if isinstance(annotations, list) else []
    results = [
        result
        for entry in entries
        if entry.get("was_cancelled") is not True and isinstance(entry.get("result"), list)
        for result in entry["result"]
        if isinstance(result, dict)
    ]
    values = [result["value"] for result in results if isinstance(result.get("value"), dict)]
    choices = [choice for value in values for choice in value.get("choices") or []]
    if not choices:
        return Reading(skip=NOT_ANNOTATED)
    return Reading(_text_of(record.get("data")), list(dict.fromkeys(map(str, choices))))


def _have_answers(records: Sequence[Record]) -> bool:
    """Return whether the records are Prodigy's, of which some may not be answered yet."""
    answers = {str(record.get("answer")) for record in records}
    annotated = any("text" in record and ("label" in record or "accept" in record) for record in records)
    return annotated and not answers.isdisjoint(_ANSWERS) and answers <= {*_ANSWERS, str(None)}


def _read_prodigy(record: Record) -> Reading:
    if record.get("answer") != "accept":
        return Reading(skip=rejection(record) or "not answered")
    label = record.get("label", record.get("accept"))
    if label == []:
        return Reading(record.get("text"), [], skip=NOT_ANNOTATED)
    options = record.get("options")
    if isinstance(label, list) and isinstance(options, list):
        texts = {str(option.get("id")): option.get("text") for option in options if isinstance(option, dict)}
        label = [texts.get(str(choice)) or choice for choice in label]
    return Reading(record.get("text"), label)


def _is_spacy(record: Record) -> bool:
    return isinstance(record.get("cats"), dict) and "text" in record


def _read_spacy(record: Record) -> Reading:
    categories = record.get("cats")
    scores = categories if isinstance(categories, dict) else {}
    return Reading(record.get("text"), [name for name, value in scores.items() if _is_positive(value)])


def _is_spacy_2(record: Record) -> bool:
    return isinstance(record.get("paragraphs"), list) and all(
        isinstance(paragraph, dict) and "raw" in paragraph and isinstance(paragraph.get("cats"), list)
        for paragraph in record["paragraphs"]
    )


def _read_spacy_2(record: Record) -> Reading:
    paragraphs = record.get("paragraphs")
    if not isinstance(paragraphs, list) or len(paragraphs) != 1 or not isinstance(paragraphs[0], dict):
        return Reading(skip="not one paragraph")
    categories = [entry for entry in paragraphs[0].get("cats") or [] if isinstance(entry, dict)]
    labels = [entry.get("label") for entry in categories if _is_positive(entry.get("value"))]
    return Reading(paragraphs[0].get("raw"), labels)


def _is_argilla(record: Record) -> bool:
    return ("annotation" in record and ("inputs" in record or "text" in record)) or (
        isinstance(record.get("fields"), dict) and "responses" in record
    )


def _read_argilla(record: Record) -> Reading:
    if str(record.get("status")).lower() == "discarded":
        return Reading(skip="discarded")
    if "fields" in record:
        labels = _argilla_responses(record.get("responses"))
        return Reading(_text_of(record["fields"]), labels) if labels else Reading(skip=NOT_ANNOTATED)
    if record.get("annotation") is None:
        return Reading(skip=NOT_ANNOTATED)
    inputs = record.get("inputs", record.get("text"))
    return Reading(_text_of(inputs) if isinstance(inputs, dict) else inputs, record["annotation"])


def _argilla_responses(responses: object) -> list[Any]:
    questions = list(responses.values()) if isinstance(responses, dict) else [responses]
    answers = [entry for answers in questions for entry in (answers if isinstance(answers, list) else [])]
    values: list[object] = []
    for answer in answers:
        if isinstance(answer, dict) and answer.get("status", "submitted") == "submitted":
            inner = answer.get("values")
            nested = list(inner.values()) if isinstance(inner, dict) else [answer]
            for entry in nested:
                value = entry.get("value") if isinstance(entry, dict) else None
                values += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(value for value in values if isinstance(value, str)))


def _is_argilla_dataset(record: Record) -> bool:
    return any(name.endswith(_RESPONSES) for name in record) and any(name.endswith(".suggestion") for name in record)


def _read_argilla_dataset(record: Record) -> Reading:
    """Read a row of a dataset as Argilla puts it on a hub: one column per field, and several per question."""
    if str(record.get("status")).lower() == "discarded":
        return Reading(skip="discarded")
    lists = [answers for name, answers in record.items() if name.endswith(_RESPONSES) and isinstance(answers, list)]
    labels = [answer for answers in lists for answer in answers if isinstance(answer, str)]
    fields = {name: value for name, value in record.items() if "." not in name and name not in _ARGILLA_COLUMNS}
    return Reading(_text_of(fields), list(dict.fromkeys(labels))) if labels else Reading(skip=NOT_ANNOTATED)


_RESPONSES = ".responses"
_ARGILLA_COLUMNS = ("id", "status", "_server_id", "metadata", "external_id")


def _is_doccano(record: Record) -> bool:
    annotations = record.get("annotations")
    return (
        isinstance(annotations, list)
        and "text" in record
        and all(isinstance(entry, dict) and "label" in entry and "start_offset" not in entry for entry in annotations)
    )


def _read_doccano(record: Record) -> Reading:
    annotations = record.get("annotations")
    entries = annotations if isinstance(annotations, list) else []
    labels = [entry.get("label") for entry in entries if isinstance(entry, dict)]
    return Reading(record.get("text"), labels) if labels else Reading(skip=NOT_ANNOTATED)


def _is_labelbox(record: Record) -> bool:
    row = record.get("data_row")
    return isinstance(row, dict) and isinstance(row.get("row_data"), str) and isinstance(record.get("projects"), dict)


def _read_labelbox(record: Record) -> Reading:
    row, projects = record.get("data_row"), record.get("projects")
    answers = [
        answer["name"]
        for project in _dicts(projects.values() if isinstance(projects, dict) else ())
        for entry in _dicts(project.get("labels"))
        for question in _dicts(_member(entry.get("annotations"), "classifications"))
        for answer in _dicts([question.get("radio_answer"), *(question.get("checklist_answers") or ())])
        if isinstance(answer.get("name"), str)
    ]
    return Reading(_member(row, "row_data"), list(dict.fromkeys(answers))) if answers else Reading(skip=NOT_ANNOTATED)


_GROUND_TRUTH = "-metadata"


def _is_ground_truth(record: Record) -> bool:
    return isinstance(record.get("source"), str) and any(
        name.endswith(_GROUND_TRUTH) and _ground_truth_labels(value) for name, value in record.items()
    )


def _read_ground_truth(record: Record) -> Reading:
    labels = [
        label for name, value in record.items() if name.endswith(_GROUND_TRUTH) for label in _ground_truth_labels(value)
    ]
    return Reading(record.get("source"), labels) if labels else Reading(skip=NOT_ANNOTATED)


def _ground_truth_labels(metadata: object) -> list[Any]:
    """Return the labels that an entry of SageMaker's manifests names: one, or several by their numbers."""
    name, names = _member(metadata, "class-name"), _member(metadata, "class-map")
    return [name] if isinstance(name, str) else list(names.values()) if isinstance(names, dict) else []


def _member(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _dicts(values: object) -> list[Record]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, Iterable) else []


_INSTRUCTIONS = (("instruction", "input", "output"), ("instruction", "context", "response"))


def _have_instructions(records: Sequence[Record]) -> bool:
    """Return whether the records have instructions that differ; the same one in all of them tells nothing."""
    whole = any(
        all(isinstance(record.get(name), str) for record in records for name in names) for names in _INSTRUCTIONS
    )
    return whole and len({record["instruction"] for record in records}) > 1


def _read_instruction(record: Record) -> Reading:
    named = (names for names in _INSTRUCTIONS if names[1] in record or names[2] in record)
    _, more, output = next(named, _INSTRUCTIONS[0])
    parts = [record.get("instruction"), record.get(more)]
    return Reading("\n".join(part for part in parts if isinstance(part, str) and part.strip()), record.get(output))


_CONTENTS = ("content", "value", "parts")


def _turns(record: Record) -> object:
    """Return the messages of a chat, as OpenAI, ShareGPT or Gemini name them."""
    return next((record[name] for name in ("messages", "conversations", "contents") if name in record), None)


def _is_chat(record: Record) -> bool:
    turns = _turns(record)
    return (
        isinstance(turns, list)
        and len(turns) >= 2
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns)
    )


def _read_chat(record: Record) -> Reading:
    turns = _turns(record)
    spoken = [
        (turn.get("role", turn.get("from")), _content(next((turn[name] for name in _CONTENTS if name in turn), None)))
        for turn in (turns if isinstance(turns, list) else ())
        if isinstance(turn, dict) and turn.get("role", turn.get("from")) not in ("system", "developer")
    ]
    if len(spoken) < 2 or spoken[-1][0] not in ("assistant", "gpt", "model", "bot"):
        return Reading(skip="the chat does not end with an answer of the assistant")
    texts = [content for _, content in spoken[:-1]]
    if len(texts) == 1:
        return Reading(texts[0], spoken[-1][1])
    if not all(isinstance(content, str) for content in texts):
        return Reading(None, spoken[-1][1])
    return Reading("\n".join(map(str, texts)), spoken[-1][1])


def _content(value: object) -> object:
    """Return the text of a message, also if it is a list of parts that are all text."""
    if not isinstance(value, list) or not value:
        return value
    texts = [part.get("text") if isinstance(part, dict) else None for part in value]
    return "\n".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else value


_PROMPT_END = re.compile(r"\s*(?:###|->|=>)\s*\Z")
_COMPLETION_END = re.compile(r"\s*(?:###|<\|endoftext\|>|\n\nHuman:)\s*\Z")
_END_CHARS = 20
"""The expressions are searched in the last characters only: they would be tried from every blank of a long text."""
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def _is_prompt_completion(record: Record) -> bool:
    return isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str)


def _read_prompt_completion(record: Record) -> Reading:
    """Remove the separators, speakers and blanks around prompt and completion that fine-tuning guides recommend."""
    if not _is_prompt_completion(record):
        return Reading(record.get("prompt"), record.get("completion"))
    prompt, completion = record["prompt"], record["completion"]
    text = _without_end(_PROMPT_END, _without_speakers(prompt))
    return Reading(text or prompt, _without_end(_COMPLETION_END, completion) or completion)


def _without_end(end: re.Pattern[str], text: str) -> str:
    return (text[:-_END_CHARS] + end.sub("", text[-_END_CHARS:])).strip()


def _without_speakers(prompt: str) -> str:
    """Return the turns of a prompt that names its speakers as Anthropic's prompts do, else the prompt.

    What stands above the first turn are instructions, which are left out as the system messages of chats are.
    """
    _, *turns = _SPEAKER.split(f"\n\n{prompt.strip()}")
    speakers, texts = turns[::2], turns[1::2]
    if speakers[:1] != ["Human"] or speakers[-1] != "Assistant" or texts[-1].strip():
        return prompt
    return "\n".join(text.strip() for text in texts[:-1])


def _text_of(fields: object) -> object:
    """Return the text of a record's fields: the only one, the one with a usual name, or the only one that is text."""
    if not isinstance(fields, dict):
        return None
    if len(fields) == 1:
        return next(iter(fields.values()))
    usual = [value for name, value in fields.items() if is_usual_input(name)]
    # Numbers are texts here, since they stay as they are written: an id has no blank.
    texts = usual or [value for value in fields.values() if isinstance(value, str) and " " in value.strip()]
    return texts[0] if len(texts) == 1 else None


def _is_positive(value: object) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return float(str(value)) >= 0.5
    except ValueError:
        return False


def _all(matches: Callable[[Record], bool]) -> Callable[[Sequence[Record]], bool]:
    return lambda records: all(map(matches, records))


_FORMATS = (
    AnnotationFormat("Label Studio", _all(_is_label_studio), _read_label_studio),
    AnnotationFormat("Prodigy", _have_answers, _read_prodigy),
    AnnotationFormat("spaCy", _all(_is_spacy), _read_spacy),
    AnnotationFormat("spaCy", _all(_is_spacy_2), _read_spacy_2),
    AnnotationFormat("Argilla", _all(_is_argilla), _read_argilla),
    AnnotationFormat("Argilla", _all(_is_argilla_dataset), _read_argilla_dataset),
    AnnotationFormat("Labelbox", _all(_is_labelbox), _read_labelbox),
    AnnotationFormat("SageMaker Ground Truth", _all(_is_ground_truth), _read_ground_truth),
    AnnotationFormat("doccano", _all(_is_doccano), _read_doccano),
    AnnotationFormat("chat", _all(_is_chat), _read_chat),
    AnnotationFormat("prompt and completion", _all(_is_prompt_completion), _read_prompt_completion),
    AnnotationFormat("instructions", _have_instructions, _read_instruction),
)
