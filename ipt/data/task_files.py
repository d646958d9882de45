"""The file formats of tasks: JSONL, the TSV files of CrossFit, and the index of a folder.

JSONL has one row a line: ``{"split": "train"|"test", "input": str, "output": str}``. If an input has two outputs, or is
in both splits, its first row counts; the other rows are skipped and noted.

CrossFit writes a folder ``<task>`` with files ``<task>_<k>_<seed>_{train,dev,test}.tsv``, without a header. Each line
is an input, a tab and an output; more outputs may follow after more tabs.

- The first output counts, as in CrossFit's loss.
- Rows of dev are training rows too: fits and tuning hold back validation examples themselves.
- Of several draws (k, seed) the smallest is read.
- A repeated input is an error, whether its outputs differ or not.

``index.json`` maps each task's name to ``{"family": str, "split": "seen"|"unseen"}``; both keys are optional.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ipt.data.examples import Example, check_text, infer_kind
from ipt.data.task_dataset import SPLITS, PositionedExample, Row, TaskDataset, check_trainable, dataset_from_rows
from ipt.errors import DatasetError
from ipt.runtime.atomic_files import replace_atomically

INDEX_FILE = "index.json"
Index = Mapping[str, Mapping[str, object]]
"""The entries of an index by the names of their tasks."""


def read_index(path: Path) -> Index:
    """Return the index, which is empty if there is no file.

    Raises:
        DatasetError: the file is not JSON, or not an object of objects.
    """
    if not path.is_file():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(index, dict) or not all(isinstance(entry, dict) for entry in index.values()):
        raise DatasetError(f'{path}: must map names of tasks to {{"family": …, "split": …}}')
    return index


def read_jsonl_task(path: Path, family: str) -> TaskDataset:
    """Read one task from a JSONL file.

    Raises:
        DatasetError: a row is invalid, or there is too little to learn from; the message names file and line.
    """

    def rows() -> Iterator[Row]:
        for position, line in _lines(path):
            try:
                row = json.loads(line)
                split, text, output = row["split"], row["input"], row["output"]
                if split not in SPLITS:
                    raise ValueError(f"split {reprlib.repr(split)}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DatasetError(
                    f"{position}: a row must be JSON with split ('train' or 'test'), input and output: {error!r}"
                ) from None
            yield position, split, text, output

    return dataset_from_rows(path.stem, family, rows(), f"{path.name}:1")


def write_jsonl_task(folder: Path, task: TaskDataset, split: str | None = None) -> Path:
    """Write `<task>.jsonl`; with a split, also add the task's family and split to the folder's index.

    Raises:
        DatasetError: the index that exists is invalid.
    """
    index = read_index(folder / INDEX_FILE)
    lines = [
        json.dumps({"split": part, "input": example.input, "output": example.output}, ensure_ascii=False) + "\n"
        for part, examples in zip(SPLITS, (task.train, task.test), strict=True)
        for example in examples
    ]
    path = folder / f"{task.name}.jsonl"
    with replace_atomically(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
    if split is not None:
        entries = {**index, task.name: {"family": task.family, "split": split}}
        with replace_atomically(folder / INDEX_FILE) as temporary:
            temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_tsv_task(folder: Path, family: str) -> TaskDataset:
    """Read one task from a folder of CrossFit's TSV files.

    Raises:
        DatasetError: a row is invalid, or there is too little to learn from; the message names file and line.
    """
    name = folder.name
    draws = {
        (int(match[1]), int(match[2])): f"{name}_{match[1]}_{match[2]}"
        for path in folder.glob("*_train.tsv")
        if (match := re.fullmatch(re.escape(name) + r"_(\d+)_(\d+)_train\.tsv", path.name))
    }
    if not draws:
        raise DatasetError(f"{folder}: no file {name}_<k>_<seed>_train.tsv, as CrossFit names them")
    stem = draws[min(draws)]
    first_rows: dict[str, tuple[str, str]] = {}
    train_path, dev_path, test_path = (folder / f"{stem}_{part}.tsv" for part in ("train", "dev", "test"))
    train = _read_tsv(train_path, first_rows)
    train += _read_tsv(dev_path, first_rows) if dev_path.is_file() else []
    test = _read_tsv(test_path, first_rows) if test_path.is_file() else []
    check_trainable(f"{train_path.name}:1", train)
    _check_no_single_label(train)
    return TaskDataset(name, family, tuple(example for _, example in train), tuple(example for _, example in test))


def _read_tsv(path: Path, first_rows: dict[str, tuple[str, str]]) -> list[PositionedExample]:
    """Read one file; `first_rows` has the first position and the output of each input of the task."""
    rows = []
    for position, line in _lines(path):
        columns = line.split("\t")
        if len(columns) < 2:
            raise DatasetError(f"{position}: a row must be an input, a tab and an output; there is no tab")
        text, output = (check_text(column, position).strip() for column in columns[:2])
        first, first_output = first_rows.setdefault(text, (position, output))
        if first != position:
            raise DatasetError(
                f"{position}: repeats the row {first}: remove one of them"
                if first_output == output
                else f"{position}: the output is {output[:50]!r}, but the same input has {first_output[:50]!r} in "
                f"{first}: keep one of them"
            )
        rows.append((position, Example(text, output)))
    return rows


def _check_no_single_label(rows: Sequence[PositionedExample]) -> None:
    examples = [example for _, example in rows]
    counts = Counter(example.output for example in examples)
    if infer_kind(examples) == "classification":
        for position, example in rows:
            if counts[example.output] < 2:
                raise DatasetError(
                    f"{position}: the only training row with the label {example.output[:50]!r}; "
                    "a label needs at least two"
                )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line that is not blank, after its position "file:number"."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        position = f"{path.name}:{number}"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise DatasetError(f"{position}: not UTF-8 text: save the file as UTF-8") from None
        if text.strip(" \r"):
            yield position, text.removesuffix("\r")
