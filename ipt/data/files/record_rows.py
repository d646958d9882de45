"""Turn the records of a dataset file into rows: find the format or the columns, and read texts and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from ipt.data.files.annotation_formats import NOT_ANNOTATED, Reading, recognize, rejection
from ipt.data.files.cells import are_printed_lists, label_of, no_label
from ipt.data.files.columns import MAX_COLUMNS, Columns, ColumnsError, choose_columns, other_candidates
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.grouped import Pair, pairs_of_keys, pairs_of_phrases, pairs_of_questions
from ipt.data.files.nested import choose_fields, flattened, is_nested
from ipt.data.files.one_hot import find_one_hot
from ipt.data.files.splits import find_split, without_other_splits

SAMPLE_ROWS = 50
_AROUND_NAMES = " \t\ufeff"

Record = Mapping[str, Any]


@dataclass
class Rows:
    """The rows of a file before they are checked, and how they were found."""

    format: str
    readings: Iterator[tuple[int, Reading]]
    encoding: str | None = None
    delimiter: str | None = None
    columns: dict[str, str] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the caller says about a file."""

    input_column: str | None
    output_column: str | None
    max_rows: int
    max_bytes: int

    @property
    def names_no_column(self) -> bool:
        return self.input_column is None and self.output_column is None

    def has_both(self, names: Sequence[str]) -> bool:
        """Return whether names of columns include those of the input and the output."""
        try:
            choose_columns(names, self.input_column, self.output_column)
        except ColumnsError:
            return False
        return True


def plain_rows(
    name: str, records: Iterator[tuple[int, Record]], names: Sequence[str], columns: Columns, options: Options
) -> Rows:
    """Return the rows whose texts and labels are in some of the columns."""
    label = columns.output
    first = list(islice(records, SAMPLE_ROWS))
    sample = [record for _, record in first]
    printed_lists = are_printed_lists([record.get(label) for record in sample])

    def read(record: Record) -> Reading:
        if all(isinstance(value, str) and value.strip(_AROUND_NAMES) == name for name, value in record.items()):
            return Reading(skip="the header again")
        output = label_of(record.get(label), printed_lists=printed_lists)
        skip = no_label(output, label) or (None if label == "answer" else rejection(record))
        return Reading(columns.input_of(record), output, NOT_ANNOTATED if output == [] else skip)

    rows = ((line, record, read(record)) for line, record in chain(first, records))
    split = find_split([column for column in names if column not in columns.names], sample)
    readings = (
        ((line, reading) for line, _, reading in rows)
        if split is None
        else without_other_splits(rows, split, options.max_rows)
    )
    notes = other_candidates(names, columns, options.input_column, options.output_column)
    read_from = {"input": ", ".join(map(str.strip, columns.inputs)), "output": label.strip()}
    return Rows(name, readings, columns=read_from, notes=[*columns.joined_note(), *notes])


def one_hot_rows(
    name: str,
    names: Sequence[str],
    sample: Sequence[Record],
    records: Iterator[tuple[int, Record]],
    options: Options,
) -> Rows | None:
    """Return the rows of a file with one column per label, None for any other file."""
    one_hot = find_one_hot(names, sample) if options.names_no_column else None
    if one_hot is None:
        return None
    return Rows(f"{name} (one column per label)", ((line, one_hot.read(record)) for line, record in records))


def record_rows(name: str, records: Iterator[tuple[int, Record]], options: Options) -> Rows:
    """Return the rows of records with names: of a known tool, or of the columns that the names tell.

    Raises:
        DatasetFileError: there is no record, or no format and no column can be told.
    """
    first = list(islice(records, SAMPLE_ROWS))
    sample = [dict(record) for _, record in first]
    records = chain(first, records)
    if options.names_no_column and (known := recognize(sample)) is not None:
        readings = ((line, known.read(dict(record))) for line, record in records)
        rows = Rows(f"{name} ({known.name})", readings)
        if known.name == "prompt and completion":
            rows.columns = {"input": "prompt", "output": "completion"}
        return rows
    if not sample:
        raise DatasetFileError("the file has no rows")
    if options.names_no_column and all(pairs_of_phrases(record) for record in sample):
        return _groups(name, records, pairs_of_phrases)
    if options.names_no_column and all(map(pairs_of_questions, sample)):
        rows = _groups(name, records, pairs_of_questions)
        rows.format = f"{name} (SQuAD)"
        return rows
    try:
        names = _names(sample, first[0][0])
        columns = choose_columns(names, options.input_column, options.output_column)
    except ColumnsError:
        # The keys of a single object may be labels or texts, which no file has as columns of all its rows.
        may_be_pairs = len(sample) == 1 or all(len(record) == 1 for record in sample)
        if options.names_no_column and may_be_pairs and all(map(pairs_of_keys, sample)):
            return _groups(name, records, pairs_of_keys)
        if (one_hot := one_hot_rows(name, _names(sample, first[0][0]), sample, records, options)) is not None:
            return one_hot
        if not any(isinstance(value, dict) for record in sample for value in record.values()):
            raise
        return _nested(name, records, sample, options)
    if is_nested(sample, columns):
        return _nested(name, records, sample, options)
    return plain_rows(name, records, names, columns, options)


def _names(records: Iterable[Record], line: int) -> list[str]:
    """Return the names of the fields of records, of which the first one is on a line.

    Raises:
        ColumnsError: there are too many.
    """
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(islice(record, MAX_COLUMNS + 1))
        if len(names) > MAX_COLUMNS:
            raise ColumnsError(f"a row has more than {MAX_COLUMNS} columns: remove unused ones", line=line)
    return list(names)


def _nested(name: str, records: Iterator[tuple[int, Record]], sample: Sequence[Record], options: Options) -> Rows:
    """Return the rows of records with nested fields."""
    paths = _names(map(flattened, sample), 1)
    columns = choose_fields(paths, options.input_column, options.output_column)
    return plain_rows(name, ((line, flattened(record)) for line, record in records), paths, columns, options)


def _groups(name: str, records: Iterator[tuple[int, Record]], pairs_of: Callable[[Record], list[Pair] | None]) -> Rows:
    """Return the rows of objects that hold several texts of a label each."""
    readings = (
        (line, reading)
        for line, record in records
        for reading in [Reading(text, label) for text, label in pairs_of(record) or ()] or [Reading()]
    )
    return Rows(f"{name} (texts by label)", readings)
