"""Read the plain-text formats of fastText and Rasa."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

from ipt.data.files.errors import DatasetFileError

_LABEL = "__label__"
_MAX_LABELS = 200
"""Most labels before a text, and behind it."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_INTENT = re.compile(r"\s*(?:-|##)\s+intent:\s*(\S.*)")
_COMMENT = re.compile(r"\s+(?:#.*|<!--.*-->\s*)")
_KEY = re.compile(r"\s*(?:(?:-|##)\s+)?(?:regex|lookup|synonym|rules|stories|story|responses|actions|entities|slots):")
_ITEM = re.compile(r"\s*[-*+]\s+(\S.*)")
# An example with metadata: its text is on the same line or, after a bar, on the next ones.
_TEXT_KEY = re.compile(r"\s*-\s+text:\s*(.*)")
_BLOCK = re.compile(r"[|>][-+\d]*\s*")
# An entity in a Rasa example: [Berlin](city) or [Berlin]{"entity": "city"}.
_ENTITY = re.compile(r"\[([^\[\]]{1,1000})\](?:\([^()]{0,1000}\)|\{[^{}]{0,1000}\})")


_OTHERS = (
    (
        re.compile(r"(?:\s*#.*\n|---\s*\n|\s*[\w-]+:[ ]*\n)*\s*-[ ]+[\w-]+:(?:[ ]|\n)|[\w-]+:[ ]*\r?\n\s*-[ ]\S"),
        "the file looks like YAML: save its rows as JSON lines or CSV",
    ),
    (re.compile(r"\s*(?:INSERT INTO|CREATE TABLE)\s"), "the file looks like SQL: export the table as CSV"),
    (re.compile(r"[A-Za-z_]\w*\s*=\s*[\[({]"), "the file looks like Python: write its rows with json.dumps"),
    (
        re.compile(r"\s*(?:export\s|const\s|let\s|var\s|module\.exports)"),
        "the file looks like JavaScript: save the array, from [ to ], as JSON",
    ),
    (
        re.compile(r"(?:[A-Z]{2,12}:[A-Za-z]{1,20}[ ]\S.*\r?(?:\n|\Z)){2}"),
        "the file looks like lines of TREC, a label before a text: save it as CSV with the columns label and text",
    ),
    (
        re.compile(r"-DOCSTART-|(?:#.*\r?\n)*1\t\S+\t\S+\t[A-Z]+\t|(?:(?:\S+[ \t]){1,3}(?:O|[BI]-\w+)\r?\n){2}"),
        "the file looks like CoNLL, which labels words: a task needs one label for each text, as CSV or JSON lines",
    ),
    (
        re.compile(r"[+-]?\d+(?:\.\d+)?(?:[ ]\d+:\S+)+[ ]*\r?(?:\n|\Z)"),
        "the file looks like LibSVM, which has numbers instead of texts: send the texts as CSV or JSON lines",
    ),
    (
        re.compile(
            r"From \S+@|(?:Return-Path|Received|Delivered-To|Message-ID|MIME-Version|From|Date|Subject): .*\n\S+:",
            re.IGNORECASE,
        ),
        "the file looks like an e-mail or a mailbox: save the text and the label of each message as CSV or JSON lines",
    ),
    (re.compile(r"(?:\s*%.*\n)*\s*@relation\b", re.IGNORECASE), "the file looks like ARFF: save its data as CSV"),
)


_SECTIONS = re.compile(r"(?:\s*[#;].*\n)*\s*\[\[?[A-Za-z_][\w .:-]{0,99}\]?\][ \t]*\r?\n\s*[\w.-]{1,100}[ \t]*=")


def looks_like_sections(text: str) -> bool:
    """Return whether a text starts as INI or TOML does: a name in brackets, and a key with a value below it."""
    return _SECTIONS.match(text[:8192]) is not None


def looks_like_fasttext(text: str) -> bool:
    """Return whether the first line starts or ends with a label of fastText."""
    line = text[:65_536].lstrip().partition("\n")[0].rstrip()
    return any(word.startswith(_LABEL) for word in (line, *line.rsplit(None, 1)[-1:]))


def looks_like_rasa(text: str) -> bool:
    """Return whether a text is the NLU data of Rasa, in YAML or in the Markdown of its older versions."""
    start = text[:8192]
    if re.search(r"^## intent:", start, re.MULTILINE):
        return True
    return re.search(r"^(?:nlu:|- intent:)", start, re.MULTILINE) is not None and "- intent:" in start


def other_language(text: str) -> str | None:
    """Return what to do with a text in another language, such as YAML or an e-mail, None for any other text."""
    start = text[:8192]
    return next((fault for pattern, fault in _OTHERS if pattern.match(start)), None)


def fasttext_rows(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the line, the text and the labels of each row."""
    for number, line in enumerate(map(str.strip, _LINE_END.split(text)), start=1):
        if not line:
            continue
        before = _labels_among(line.split(None, _MAX_LABELS))
        rest = "".join(line.split(None, len(before))[len(before) :])
        after = _labels_among(reversed(rest.rsplit(None, _MAX_LABELS)))
        labels = [*before, *reversed(after)]
        if not labels:
            message = f"expected a line of fastText, which starts or ends with {_LABEL}"
            raise DatasetFileError(message, line=number)
        yield number, "".join(rest.rsplit(None, len(after))[: -len(after) or None]), labels


def rasa_rows(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the text and the intent of each example; entities are replaced by their texts."""
    intent: str | None = None
    in_block = False
    for number, line in enumerate(_LINE_END.split(text), start=1):
        example: str | None = None
        if match := _INTENT.fullmatch(line):
            intent = _COMMENT.sub("", match[1]).strip().strip("'\"")
        elif _KEY.match(line):
            intent = None
        elif intent is not None and (match := _TEXT_KEY.fullmatch(line)):
            in_block = _BLOCK.fullmatch(match[1]) is not None
            example = None if in_block else match[1]
        elif in_block:
            example, in_block = line.strip().removeprefix("- "), not line.strip()
        elif intent is not None and (match := _ITEM.fullmatch(line)):
            example = match[1]
        if example and intent is not None:
            yield number, _ENTITY.sub(r"\1", example).strip(), intent


def _labels_among(words: Iterable[str]) -> list[str]:
    """Return the labels that the words start with."""
    return [word.removeprefix(_LABEL) for word in takewhile(lambda word: word.startswith(_LABEL), words)]
