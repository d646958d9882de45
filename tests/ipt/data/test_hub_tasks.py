"""Tasks read from local datasets, without a network."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipt
from ipt.data.hub_tasks import Columns, read_dataset
from ipt.data.task_files import write_jsonl_task
from ipt.data.task_folder import read_task_folder

ROWS = {"text": ["good film", "bad film", "fine food", "awful food"], "label": [1, 0, 1, 0]}
TEST = {"text": ["great", "good film"], "label": [1, 1]}


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    yield package
    package.enable_progress_bars()


@pytest.fixture
def saved(datasets: Any, tmp_path: Path) -> str:
    """A folder that `save_to_disk` wrote; its labels have names."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    parts = {"train": ROWS, "validation": TEST}
    dataset = datasets.DatasetDict({name: datasets.Dataset.from_dict(rows, features) for name, rows in parts.items()})
    dataset.save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_labels_get_their_names_and_leaked_test_rows_are_noted(saved: str) -> None:
    task = read_dataset(saved, Columns(test_split="validation"), name="films", family="mood")
    assert (task.name, task.family) == ("films", "mood")
    assert task.train[:2] == (ipt.Example("good film", "positive"), ipt.Example("bad film", "negative"))
    assert task.test == (ipt.Example("great", "positive"),)
    assert task.notes == (
        f"{saved}, validation row 1: skipped: the test row has the same input as the train row {saved}, train row 0",
    )


def test_json_files_are_read_from_other_columns(datasets: Any, tmp_path: Path) -> None:
    folder = tmp_path / "json"
    folder.mkdir()
    for split, rows in (("train", ROWS), ("test", TEST)):
        lines = [json.dumps({"words": text, "mood": label}) for text, label in zip(*rows.values(), strict=True)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    columns = Columns("words", "mood", ("sad", "glad"))
    task = read_dataset(str(folder), columns, name="films", family="mood")
    assert [row.output for row in task.train] == ["glad", "sad", "glad", "sad"]
    few = read_dataset(str(folder), columns, name="films", family="mood", most_rows=3)
    assert len(few.train) == 3
    assert set(few.train) < set(task.train)
    path = write_jsonl_task(tmp_path / "tasks", task, "unseen")
    [task_read] = read_task_folder(path.parent, "unseen").tasks
    assert (task_read.name, task_read.family, task_read.train, task_read.test) == (
        "films",
        "mood",
        task.train,
        task.test,
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), "has no split 'test'; it has 'train', 'validation'"),
        (
            Columns(input="words", test_split="validation"),
            "split 'train' has no column 'words'; it has 'text', 'label'",
        ),
        (Columns(label_names=("one",), test_split="validation"), "row 0: the output is 1, but names are given for 0"),
    ],
)
def test_a_missing_split_column_or_label_name_is_an_error(saved: str, columns: Columns, message: str) -> None:
    with pytest.raises(ipt.DatasetError, match=message):
        read_dataset(saved, columns, name="films", family="mood")


def test_label_numbers_without_names_are_rejected(datasets: Any, tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(ROWS)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ipt.DatasetError, match=r"train row 0: the output is the number 1, .* no label names"):
        read_dataset(str(tmp_path / "saved"), Columns(), name="films", family="mood")


def test_a_missing_dataset_is_a_one_line_error(datasets: Any) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(ipt.DatasetError, match="dataset 'no-one/nothing' cannot be read: ") as raised:
        read_dataset("no-one/nothing", Columns(), name="films", family="mood")
    assert "\n" not in raised.value.message


def test_a_missing_package_is_an_error_that_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ipt.IptError, match=r"pip install 'intrinsic-prompt-tuning\[hub\]'"):
        read_dataset("films", Columns(), name="films", family="mood")
