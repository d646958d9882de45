"""Read a folder of tasks, each a file of JSONL or a folder of TSV files.

``<task>.jsonl`` has ``{"split": "train"|"test", "input": str, "output": str}`` a line. Of an input with two outputs, or
in both splits, the first row counts; such rows, and those that stand twice, are noted in the task. A folder
``<task>`` has files ``<task>_<k>_<seed>_{train,dev,test}.tsv`` as CrossFit writes them: input, tab, output a line,
further outputs behind further tabs, no header. There

- the first output counts, as in CrossFit's loss;
- the rows of dev are training rows as well: a fit and a tuning run hold some of these back on their own;
- of several draws (k, seed) the smallest is read;
- an input may stand once: a row twice is a row too many, and one with two outputs, or in train and test, is an error.

An optional ``index.json`` maps each task's name to ``{"family": str, "split": "seen"|"unseen"}``; both may be missing,
and it names no task that is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ipt.data.examples import Example, TaskKind, check_text, infer_kind, labels_of, rarest_label, text_fault
from ipt.errors import DatasetError
from ipt.runtime.atomic_files import replace_atomically

SPLITS = ("train", "test")
INDEX_SPLITS = ("seen", "unseen")
NAMED_TASKS = 5
"""Most tasks of a folder that a message names."""
Row = tuple[str, str, object, object]
"""Where it stands, its split, input and output."""

TEXTS_FOR_A_LABEL = 2
"""A task whose outputs are texts has this many times the rows that another one has of a label, as in CrossFit."""


@dataclass(frozen=True)
class FolderTask:
    """One task of a folder, all its rows."""

    name: str
    family: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    """Rows that were skipped, and the like: what a report should say of the task."""
    source: str | None = field(default=None, compare=False)
    """The file, or the folder, that it was read from, for messages."""


def read_task_folder(folder: Path, split: str | None = None, left_out: list[str] | None = None) -> list[FolderTask]:
    """The tasks of `folder` in order of name; only those of `split` in ``index.json`` when it is given.

    A task that cannot be used is an error, or, where there is a list `left_out`, what is wrong with it goes there.

    Raises:
        DatasetError: naming file and line of the first bad row, or saying what the folder lacks, or what is wrong with
            its index.
    """
    index = _read_index(folder / "index.json")
    if split is not None and not index:
        raise DatasetError(f"{folder}: a split was asked for, but there is no index.json that names one")
    paths = {path.stem: path for path in folder.glob("*.jsonl")}
    for path in folder.glob("*/"):
        if any(path.glob("*.tsv")):
            if path.name in paths:
                raise DatasetError(f"{folder}: task {path.name!r} is there twice, as JSONL and as TSV; remove one")
            paths[path.name] = path
    for name, fault in _index_faults(folder / "index.json", index, paths).items():
        if left_out is None:
            raise DatasetError(fault)
        # Both splits of a folder may be read with one list.
        if fault not in left_out:
            left_out.append(fault)
        paths.pop(name, None)
    if split is not None and left_out is not None:
        unlisted = [path.name for name, path in sorted(paths.items()) if name not in index]
        notes = [f"{name}: left out, as index.json does not name the task" for name in unlisted]
        left_out += [note for note in notes if note not in left_out]
    tasks = []
    for name, path in sorted(paths.items()):
        entry = index.get(name, {})
        if split is None or entry.get("split") == split:
            family = str(entry.get("family", name))
            try:
                task = _read_tsv_task(path, family) if path.is_dir() else _read_task(path, family)
                tasks.append(replace(task, source=path.name))
            except DatasetError as error:
                if left_out is None:
                    raise
                left_out.append(error.message)
    if not tasks and left_out:
        raise DatasetError(f"{folder}: no task of {len(left_out)} can be used; {left_out[0]}")
    if not tasks:
        wanted = f" of split {split!r}" if split else ""
        raise DatasetError(f"{folder}: no tasks (*.jsonl, or */*_train.tsv){wanted}")
    return tasks


def few_shot(examples: Sequence[Example], per_label: int, seed: int) -> list[Example]:
    """What a task is tuned on: `per_label` examples of every label, or `TEXTS_FOR_A_LABEL` times as many texts."""
    if infer_kind(examples) == "classification":
        return sample_per_label(examples, per_label, seed)
    size = TEXTS_FOR_A_LABEL * per_label
    return [examples[row] for row in np.random.default_rng([seed, size]).permutation(len(examples))[:size]]


def rows_lacking(examples: Sequence[Example], kind: TaskKind, per_label: int) -> tuple[int, int, str] | None:
    """How many training rows there are, how many `few_shot` would draw, and of what; None where there are enough."""
    found, asked, of = len(examples), TEXTS_FOR_A_LABEL * per_label, ""
    if kind == "classification":
        label, found = rarest_label(examples)
        asked, of = per_label, f" of {label[:50]!r}"
    return (found, asked, f"training rows{of}") if found < asked else None


def notes_of(tasks: Iterable[FolderTask]) -> list[str]:
    """What is wrong with rows of the tasks, which were skipped or stand there again."""
    return [note for task in tasks for note in task.notes]


def sample_per_label(examples: Sequence[Example], per_label: int, seed: int) -> list[Example]:
    """`per_label` examples of every label (all where there are fewer), chosen by `seed`, in the order they stand."""
    return [examples[index] for index in rows_per_label(examples, per_label, seed)]


def rows_per_label(examples: Sequence[Example], per_label: int, seed: int) -> list[int]:
    """Where in `examples` those stand that `sample_per_label` chooses."""
    rng = np.random.default_rng([seed, per_label])
    by_label: dict[str, list[int]] = {label: [] for label in labels_of(examples)}
    for index, example in enumerate(examples):
        by_label[example.output].append(index)
    chosen = [index for rows in by_label.values() for index in rng.permutation(rows)[:per_label].tolist()]
    return sorted(chosen)


def _read_index(path: Path) -> dict[str, dict[str, object]]:
    if not path.is_file():
        return {}
    try:
        index = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(index, dict) or not all(isinstance(entry, dict) for entry in index.values()):
        raise DatasetError(f'{path}: must map names of tasks to {{"family": …, "split": …}}')
    return index


def _index_faults(path: Path, index: Mapping[str, Mapping[str, object]], there: Collection[str]) -> dict[str, str]:
    """What is wrong with the index's tasks that have no file, or a split that there is not, by their names."""
    faults = {}
    for name, entry in index.items():
        if name not in there:
            faults[name] = (
                f"{path}: names the task {name!r}, but the folder has no {name}.jsonl and no folder {name} with TSV "
                f"files; it has {_listed(there)}: add the file, or remove the task from index.json"
            )
        elif "split" in entry and entry["split"] not in INDEX_SPLITS:
            faults[name] = (
                f"{path}: the task {name!r} has the split {reprlib.repr(entry['split'])}; "
                f"there are {' and '.join(map(repr, INDEX_SPLITS))}"
            )
        elif fault := text_fault(entry.get("family", "")):
            faults[name] = f"{path}: the family of the task {name!r} {fault}"
    return faults


def _listed(names: Collection[str]) -> str:
    if not names:
        return "no tasks"
    first = ", ".join(map(repr, sorted(names)[:NAMED_TASKS]))
    return first if len(names) <= NAMED_TASKS else f"{first} and {len(names) - NAMED_TASKS} more"


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not empty, after "file:number"."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path.name}:{number}"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise DatasetError(f"{where}: not UTF-8 text: save the file as UTF-8") from None
        if text.strip(" \r"):
            yield where, text.removesuffix("\r")


def _read_task(path: Path, family: str) -> FolderTask:
    def rows() -> Iterator[Row]:
        for where, line in _lines(path):
            try:
                row = json.loads(line)
                split, text, output = row["split"], row["input"], row["output"]
                if split not in SPLITS:
                    raise ValueError(f"split {reprlib.repr(split)}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DatasetError(
                    f"{where}: a row must be JSON with split ('train' or 'test'), input and output: {error!r}"
                ) from None
            yield where, split, text, output

    return task_of_rows(path.stem, family, rows(), f"{path.name}:1")


def task_of_rows(name: str, family: str, rows: Iterable[Row], source: str) -> FolderTask:
    """The task that has these rows, each after where it stands; what is wrong with some is in its notes.

    Raises:
        DatasetError: a text is none or empty, or there is too little to learn from.
    """
    of_split: dict[str, list[tuple[str, Example]]] = {split: [] for split in SPLITS}
    seen: dict[str, tuple[str, str, str]] = {}
    notes: list[str] = []
    again: list[str] = []
    for where, split, text, output in rows:
        example = Example(check_text(text, where), check_text(output, where))
        first, in_split, wanted = seen.setdefault(example.input, (where, split, example.output))
        if wanted != example.output:
            notes.append(f"{where}: skipped: {example.output[:50]!r} for an input that has {wanted[:50]!r} in {first}")
            continue
        if in_split != split:
            notes.append(f"{where}: skipped: a {split} row whose input is the {in_split} row {first}")
            continue
        if first != where:
            again.append(where)
        of_split[split].append((where, example))
    if again:
        notes.append(f"{again[0]}: the first of {len(again)} rows that stand there again, and count again")
    _check_labels(source, of_split["train"])
    train, test = (tuple(example for _, example in of_split[split]) for split in SPLITS)
    return FolderTask(name, family, train, test, tuple(notes))


def rows_hash(*parts: Sequence[Example]) -> str:
    """Of rows in their order: with others a fit finds another subspace, and a measurement has another score."""
    rows = [[(row.input, row.output) for row in part] for part in parts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def write_task(folder: Path, task: FolderTask, split: str | None = None) -> Path:
    """Write `<task>.jsonl`, and family and split to the folder's index.json where a split is given.

    Raises:
        DatasetError: the index is none.
    """
    index = _read_index(folder / "index.json")
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
        with replace_atomically(folder / "index.json") as temporary:
            temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _read_tsv_task(folder: Path, family: str) -> FolderTask:
    name = folder.name
    draws = {
        (int(found[1]), int(found[2])): f"{name}_{found[1]}_{found[2]}"
        for path in folder.glob("*_train.tsv")
        if (found := re.fullmatch(re.escape(name) + r"_(\d+)_(\d+)_train\.tsv", path.name))
    }
    if not draws:
        raise DatasetError(f"{folder}: no file {name}_<k>_<seed>_train.tsv, as CrossFit names them")
    stem = draws[min(draws)]
    seen: dict[str, tuple[str, str]] = {}
    train = _read_tsv(folder / f"{stem}_train.tsv", seen)
    for part in ("dev", "test"):
        path = folder / f"{stem}_{part}.tsv"
        rows = _read_tsv(path, seen) if path.is_file() else []
        if part == "dev":
            train += rows
    _check_train(folder / f"{stem}_train.tsv", train)
    return FolderTask(name, family, tuple(example for _, example in train), tuple(example for _, example in rows))


def _read_tsv(path: Path, seen: dict[str, tuple[str, str]]) -> list[tuple[str, Example]]:
    """The rows, each after where it stands; `seen` is where each input of the task stood first, and its output."""
    rows = []
    for where, line in _lines(path):
        columns = line.split("\t")
        if len(columns) < 2:
            raise DatasetError(f"{where}: a row must be an input, a tab and an output; there is no tab")
        text, output = (check_text(column, where).strip() for column in columns[:2])
        first, wanted = seen.setdefault(text, (where, output))
        if first != where:
            fault = (
                f"the row of {first} again: remove one"
                if wanted == output
                else f"the output is {output[:50]!r}, but for the same input {wanted[:50]!r} in {first}: decide for one"
            )
            raise DatasetError(f"{where}: {fault}")
        rows.append((where, Example(text, output)))
    return rows


def _check_train(path: Path, rows: Sequence[tuple[str, Example]]) -> None:
    _check_labels(f"{path.name}:1", rows)
    examples = [example for _, example in rows]
    counts = Counter(example.output for example in examples)
    if infer_kind(examples) == "classification":
        for where, example in rows:
            if counts[example.output] < 2:
                raise DatasetError(
                    f"{where}: the only training row with the label {example.output[:50]!r}; a label needs at least two"
                )


def _check_labels(source: str, rows: Sequence[tuple[str, Example]]) -> None:
    if len(rows) < 2:
        where = rows[0][0] if rows else source
        raise DatasetError(f"{where}: a task needs at least two training rows, found {len(rows)}")
    labels = labels_of([example for _, example in rows])
    if len(labels) == 1:
        raise DatasetError(
            f"{rows[0][0]}: this and all other training rows have the output {labels[0][:50]!r}; "
            "a task needs at least two"
        )
