"""Collect the rows of a dataset file, and report all rows without a text or a label together."""

from __future__ import annotations

from collections.abc import Sequence

from ipt.data.examples import VISIBLE_TEXT, Example, text_fault
from ipt.data.files.annotation_formats import NOT_ANNOTATED, Reading
from ipt.data.files.cells import labels_in
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.source import SkippedRow
from ipt.data.names import MOST_NAMED, listed_lines, listed_rows


class CollectedRows:
    """The examples read so far, and the rows that lack a text or a label, which are reported together."""

    def __init__(self, *, multilabel: bool = False, separator: str | None = None) -> None:
        """Read labels as sets, whose texts are split at the separator, if the rows are those of a multi-label task."""
        self._multilabel = multilabel
        self._separator = separator
        self.examples: list[Example] = []
        self.lines: list[int] = []
        self.skipped = 0
        self.skipped_rows: list[SkippedRow] = []
        self._rows = 0
        self._missing: dict[str, list[_Place]] = {"output": [], "input": []}
        self._several: list[_Place] = []

    def add(self, line: int, reading: Reading) -> None:
        """Add a row.

        Raises:
            DatasetFileError: a value is of a type that is no text.
        """
        self._rows += 1
        place = (line, self._rows)
        has_no_label = self._multilabel and reading.skip == NOT_ANNOTATED and reading.label == []
        if reading.skip is not None and not has_no_label:
            self.skipped += 1
            if len(self.skipped_rows) < MOST_NAMED:
                self.skipped_rows.append(SkippedRow(line, reading.skip))
            return
        label = reading.label
        if self._multilabel:
            labels = labels_in(label, self._separator)
            label = (
                None if labels is None else Example.with_labels("", [_checked(each, line) for each in labels]).output
            )
        texts = {}
        for field_name, value in (("input", reading.text), ("output", label)):
            if isinstance(value, list) and len(value) > 1 and field_name == "output":
                self._several.append(place)
                return
            text = _as_text(value, line, field_name)
            if text is None or not VISIBLE_TEXT.search(text):
                self._missing[field_name].append(place)
            else:
                texts[field_name] = text
        if len(texts) == 2:
            self.examples.append(Example(**texts))
            self.lines.append(line)

    def check(self) -> None:
        """Raise DatasetFileError if rows lack a text or a label, or if there is no row at all."""
        faults = [
            (field_name, places, f"{_counted(places)} no {'label' if field_name == 'output' else 'text'}")
            for field_name, places in self._missing.items()
            if places
        ]
        if self._several:
            faults.append(
                (
                    "output",
                    self._several,
                    f"{_counted(self._several)} several labels, which only tasks of the kind multilabel have",
                )
            )
        if faults:
            message = "; ".join(f"{fault} ({_listed(places)})" for _, places, fault in faults)
            field_name, places, _ = faults[0]
            advice = "correct or remove these rows"
            if len(faults) == 1 and self._several:
                advice = "keep one label in each of these rows, or adapt a task of this kind"
            elif self._multilabel and self._missing["output"]:
                advice += ", or write [] for a text of no label"
            raise DatasetFileError(f"{message}: {advice}", line=places[0][0], field=field_name)
        if not self.examples:
            skipped = f": all {self.skipped} are skipped ({self.skipped_rows[0].reason})" if self.skipped else ""
            raise DatasetFileError(f"the file has no rows{skipped}")


_Place = tuple[int, int]
"""The line and the number of a row."""


def _counted(places: Sequence[_Place]) -> str:
    return "1 row has" if len(places) == 1 else f"{len(places):,} rows have"


def _listed(places: Sequence[_Place]) -> str:
    """Return the lines, or the numbers of the rows if several rows are on one line."""
    lines = list(dict.fromkeys(line for line, _ in places))
    return listed_lines(lines) if len(lines) == len(places) else listed_rows([row for _, row in places])


def _checked(label: object, line: int) -> str:
    """Return a label of a list as text.

    Raises:
        DatasetFileError: it is empty, or no text.
    """
    text = _as_text(label, line, "output")
    if text is None or not VISIBLE_TEXT.search(text):
        raise DatasetFileError("one of the labels is empty: remove it", line=line, field="output")
    return text


def _as_text(value: object, line: int, field_name: str) -> str | None:
    """Return a text, number, boolean or list of one as text; None if it is missing.

    Raises:
        DatasetFileError: it is something else, or text that cannot be stored.
    """
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__
        advice = ": put the text itself into this field" if isinstance(value, dict) else ""
        raise DatasetFileError(f"expected a text, got {kind}{advice}", line=line, field=field_name)
    fault = text_fault(value)
    if fault:
        raise DatasetFileError(fault, line=line, field=field_name)
    return value
