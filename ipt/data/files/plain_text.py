"""Read the plain-text formats of fastText and Rasa."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ipt.data.files.errors import DatasetFileError

_LABEL = "__label__"
_LINE_END = re.compile(r"\r\n|\r|\n")
_INTENT = re.compile(r"\s*(?:-|##)\s+intent:\s*(\S.*)")
_KEY = re.compile(r"\s*(?:(?:-|##)\s+)?(?:regex|lookup|synonym|rules|stories|story|responses|actions|entities|slots):")
_ITEM = re.compile(r"\s*[-*+]\s+(\S.*)")
# An entity in a Rasa example: [Berlin](city) or [Berlin]{"entity": "city"}.
_ENTITY = re.compile(r"\[([^\[\]]{1,1000})\](?:\([^()]{0,1000}\)|\{[^{}]{0,1000}\})")


def looks_like_fasttext(text: str) -> bool:
    """Return whether the first line starts with a label of fastText."""
    return text[:1024].lstrip().startswith(_LABEL)


def looks_like_rasa(text: str) -> bool:
    """Return whether a text is the NLU data of Rasa, in YAML or in the Markdown of its older versions."""
    start = text[:8192]
    if re.search(r"^## intent:", start, re.MULTILINE):
        return True
    return re.search(r"^nlu:", start, re.MULTILINE) is not None and "- intent:" in start


def fasttext_rows(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the text and the label of each row."""
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if not line.strip():
            continue
        label, _, rest = line.strip().partition(" ")
        if not label.startswith(_LABEL):
            raise DatasetFileError(f"expected a line of fastText, which starts with {_LABEL}", line=number)
        if rest.lstrip().startswith(_LABEL):
            raise DatasetFileError("a text has several labels, but one is supported: keep one of them", line=number)
        yield number, rest.strip(), label.removeprefix(_LABEL)


def rasa_rows(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the text and the intent of each example; entities are replaced by their texts."""
    intent: str | None = None
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if match := _INTENT.fullmatch(line):
            intent = match[1].strip().strip("'\"")
        elif _KEY.match(line):
            intent = None
        elif intent is not None and (match := _ITEM.fullmatch(line)):
            yield number, _ENTITY.sub(r"\1", match[1]).strip(), intent
