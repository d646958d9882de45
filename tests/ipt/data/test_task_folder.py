"""Folders of tasks: CrossFit's TSV files, JSONL files, and the index."""

import json
import re
from pathlib import Path

import pytest

import ipt
from ipt.data.task_dataset import TaskDataset
from ipt.data.task_folder import read_task_folder
from tests.support.datasets import sentiment

TRAIN = "good movie\tpositive\nbad movie\tnegative\nfine food\tpositive\nawful food\tnegative\n"
DEV = "great place\tpositive\nsad place\tnegative\n"
TEST = "love it\tpositive\tgood\nhate it\tnegative\n"


def write(folder: Path, train: str | bytes = TRAIN, dev: str = DEV, test: str = TEST, draw: str = "16_13") -> Path:
    task = folder / "films"
    task.mkdir(exist_ok=True)
    for part, content in (("train", train), ("dev", dev), ("test", test)):
        data = content if isinstance(content, bytes) else content.encode()
        (task / f"films_{draw}_{part}.tsv").write_bytes(data)
    return folder


def read(folder: Path, split: str | None = None) -> list[TaskDataset]:
    return read_task_folder(folder, split).require_all()


def test_dev_rows_are_training_rows_and_the_first_output_counts(tmp_path: Path) -> None:
    (task,) = read(write(tmp_path))
    assert (task.name, task.family, len(task.train)) == ("films", "films", 6)
    assert task.train[0] == ipt.Example("good movie", "positive")
    assert task.train[5] == ipt.Example("sad place", "negative")
    assert task.test == (ipt.Example("love it", "positive"), ipt.Example("hate it", "negative"))


def test_the_smallest_of_several_draws_is_read(tmp_path: Path) -> None:
    write(tmp_path, draw="16_100", train=TRAIN.replace("movie", "film"))
    write(tmp_path, draw="16_21")
    write(tmp_path, draw="128_1", train=TRAIN.replace("movie", "film"))
    assert read(tmp_path)[0].train[0].input == "good movie"


def test_crlf_a_byte_order_mark_and_unicode_separators_are_read(tmp_path: Path) -> None:
    train = "\ufeff" + TRAIN.replace("\n", "\r\n").replace("fine food", "fine\u2028food\x0b!")
    (task,) = read(write(tmp_path, train=train))
    assert [example.input for example in task.train[:3]] == ["good movie", "bad movie", "fine\u2028food\x0b!"]
    assert {example.output for example in task.train} == {"positive", "negative"}


def test_a_folder_may_mix_formats_and_its_index_selects_a_split(tmp_path: Path) -> None:
    write(tmp_path)
    rows = [json.dumps({"split": "train", "input": text, "output": text}) for text in ("a", "b")]
    (tmp_path / "echo.jsonl").write_text("\n".join(rows))
    (tmp_path / "notes").mkdir()
    assert [task.name for task in read(tmp_path)] == ["echo", "films"]
    (tmp_path / "index.json").write_text(json.dumps({"films": {"family": "mood", "split": "seen"}}))
    (task,) = read(tmp_path, "seen")
    assert (task.name, task.family) == ("films", "mood")
    (tmp_path / "films.jsonl").write_text("\n".join(rows))
    with pytest.raises(ipt.DatasetError, match="'films' exists twice"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("train", TRAIN + "no tab\n", r"films_16_13_train\.tsv:5: .*no tab"),
        ("train", TRAIN + "\tpositive\n", r"train\.tsv:5 is empty"),
        ("train", TRAIN + "fair\t \n", r"train\.tsv:5 is empty"),
        ("train", TRAIN + "\t\n", r"train\.tsv:5 is empty"),
        ("train", TRAIN + "a\x00b\tpositive\n", r"train\.tsv:5 contains a NUL"),
        ("train", TRAIN.encode() + b"caf\xe9\tpositive\n", r"train\.tsv:5: not UTF-8"),
        ("train", TRAIN + "good movie\tpositive\n", r"train\.tsv:5: repeats the row films_16_13_train\.tsv:1"),
        ("train", TRAIN + "good movie\tnegative\n", r"train\.tsv:5: the output is 'negative', .*'positive' in .*:1"),
        ("dev", DEV + "bad movie\tnegative\n", r"dev\.tsv:3: repeats the row films_16_13_train\.tsv:2"),
        ("test", TEST + "sad place\tnegative\n", r"test\.tsv:3: repeats the row films_16_13_dev\.tsv:2"),
        ("test", TEST + "no tab\n", r"test\.tsv:3: .*no tab"),
        ("train", TRAIN + "so so\tneutral\n", r"train\.tsv:5: the only training row with the label 'neutral'"),
    ],
)
def test_an_invalid_tsv_row_is_named_by_file_and_line(
    tmp_path: Path, part: str, content: str | bytes, message: str
) -> None:
    write(tmp_path)
    path = tmp_path / "films" / f"films_16_13_{part}.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ipt.DatasetError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("", r"train\.tsv:1: .*at least two training rows, found 0"),
        ("\n\ngood\tpositive\n", r"train\.tsv:3: .*at least two training rows, found 1"),
        ("\ngood\tpositive\nfine\tpositive\n", r"train\.tsv:2: .*the output 'positive'"),
    ],
)
def test_too_few_rows_or_outputs_are_an_error(tmp_path: Path, train: str, message: str) -> None:
    write(tmp_path, train=train, dev="")
    with pytest.raises(ipt.DatasetError, match=message):
        read(tmp_path)


def test_tsv_files_with_other_names_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "train.tsv").write_text(TRAIN)
    with pytest.raises(ipt.DatasetError, match=r"films_<k>_<seed>_train\.tsv"):
        read(tmp_path)


@pytest.mark.parametrize("index", ["[]", "{", '{"films": 1}', pytest.param("[" * 200_000, id="deep")])
def test_an_invalid_index_is_an_error(tmp_path: Path, index: str) -> None:
    write(tmp_path)
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(ipt.DatasetError, match=r"index\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "movies",
            "seen",
            r"index\.json: names the task 'movies', but the folder has no movies\.jsonl .*it has 'films':",
        ),
        ("films", "Seen", r"index\.json: the task 'films' has the split 'Seen'; allowed: 'seen', 'unseen'"),
        ("films", None, r"index\.json: the task 'films' has the split None;"),
    ],
)
def test_a_task_whose_index_entry_is_wrong_is_a_fault(
    tmp_path: Path, name: str, split: str | None, message: str
) -> None:
    write(tmp_path)
    index = tmp_path / "index.json"
    index.write_text(json.dumps({name: {"family": "mood", "split": split}}))
    for read_split in (None, "seen", "unseen"):
        with pytest.raises(ipt.DatasetError, match=message):
            read(tmp_path, read_split)
    for task in ("echo", "other"):
        (tmp_path / f"{task}.jsonl").write_text(jsonl(("train", "good", "yes"), ("train", "bad", "no")))
    splits = {name: split, "echo": "seen", "other": "unseen"}
    index.write_text(json.dumps({task: {"split": each} for task, each in splits.items()}))
    seen, unseen = (read_task_folder(tmp_path, each) for each in ("seen", "unseen"))
    assert [task.name for task in (*seen.tasks, *unseen.tasks)] == ["echo", "other"]
    assert seen.skipped == unseen.skipped
    at_odds, *unlisted = seen.skipped
    assert f"the task {name!r}" in at_odds
    assert unlisted == ["films: left out, as index.json does not name the task"] * (name != "films")
    assert ("films" in [task.name for task in read_task_folder(tmp_path).tasks]) == (name != "films")


def test_an_index_may_omit_tasks_and_keys_and_have_unknown_keys(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "movies.jsonl").write_text(jsonl(("train", "good", "yes"), ("train", "bad", "no")))
    (tmp_path / "index.json").write_text(json.dumps({"films": {"family": "mood", "labels": 2}}))
    assert [(task.name, task.family) for task in read(tmp_path)] == [
        ("films", "mood"),
        ("movies", "movies"),
    ]
    assert [task.source for task in read(tmp_path)] == ["films", "movies.jsonl"]


def test_an_error_names_the_first_tasks_of_many(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"t{number}.jsonl").write_text("")
    (tmp_path / "index.json").write_text(json.dumps({"films": {}}))
    with pytest.raises(ipt.DatasetError, match=r"it has 't0', 't1', 't2', 't3', 't4' and 2 more: add the file"):
        read(tmp_path)


def jsonl(*rows: tuple[str, str, str]) -> str:
    return "\n".join(json.dumps(dict(zip(("split", "input", "output"), row, strict=True))) for row in rows)


def test_conflicting_rows_are_skipped_and_noted_by_file_and_line(tmp_path: Path) -> None:
    rows = [("train", "good", "yes"), ("train", "bad", "no"), ("train", "good", "no"), ("test", "bad", "no")]
    rows += [("train", "bad", "no"), ("test", "fine", "yes"), ("test", "fine", "yes")]
    (tmp_path / "films.jsonl").write_text(jsonl(*rows))
    (task,) = read(tmp_path)
    assert [row.input for row in task.train] == ["good", "bad", "bad"]
    assert [row.input for row in task.test] == ["fine", "fine"]
    conflict, leak, repeated = task.notes
    assert conflict.startswith("films.jsonl:3: skipped: 'no' for an input that has 'yes' in films.jsonl:1")
    assert leak.startswith("films.jsonl:4: skipped: the test row has the same input as the train row films.jsonl:2")
    assert repeated.startswith("films.jsonl:5: the first of 2 repeated rows")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"films\.jsonl:1: .*found 0"),
        (jsonl(("test", "a", "x"), ("train", "b", "x"), ("train", "c", "x")), r"films\.jsonl:2: .*the output 'x'"),
        (jsonl(("train", "a", "x")) + "\n{", r"films\.jsonl:2: a row must be JSON"),
        pytest.param(
            jsonl(("train", "a", "x")) + "\n" + "[" * 200_000, r"films\.jsonl:2: a row must be JSON", id="deep"
        ),
        pytest.param(
            '{"input": "a", "output": "b", "split": ' + "[" * 600 + "]" * 600 + "}",
            r"films\.jsonl:1: a row must be JSON",
            id="deep split",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_a_fault(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "movies.jsonl").write_text(jsonl(("train", "good", "yes"), ("train", "bad", "no")))
    (tmp_path / "films.jsonl").write_text(content)
    with pytest.raises(ipt.DatasetError, match=message):
        read(tmp_path)
    folder = read_task_folder(tmp_path)
    assert [task.name for task in folder.tasks] == ["movies"]
    [fault] = folder.skipped
    assert re.match(message, fault)
    (tmp_path / "movies.jsonl").unlink()
    with pytest.raises(ipt.DatasetError, match=r"no task can be used; the first of 1 errors: films\.jsonl"):
        read(tmp_path)


def test_an_index_may_begin_with_a_byte_order_mark_and_its_families_must_be_text(tmp_path: Path) -> None:
    write(tmp_path)
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"films": {"family": "mood", "split": "seen"}}), encoding="utf-8-sig")
    assert [task.family for task in read(tmp_path, "seen")] == ["mood"]
    for family, message in (("mo\0od", "contains a NUL character"), (5, "must be a string, got int")):
        index.write_text(json.dumps({"films": {"family": family, "split": "seen"}}))
        with pytest.raises(ipt.DatasetError, match=rf"index\.json: the family of the task 'films' {message}"):
            read(tmp_path, "seen")


def test_a_task_whose_file_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ipt.DatasetError, match=r"gone\.jsonl: cannot be read: No such file"):
        read(tmp_path)
    folder = read_task_folder(tmp_path)
    assert [task.name for task in folder.tasks] == ["films"]
    assert len(folder.skipped) == 1


def test_jsonl_tasks_are_read_and_selected_by_split(tmp_path: Path) -> None:
    rows = [{"split": "train", "input": e.input, "output": e.output} for e in sentiment()]
    rows.append({"split": "test", "input": "good", "output": "positive"})
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "index.json").write_text(json.dumps({"one": {"family": "f", "split": "seen"}}))
    (task,) = read_task_folder(tmp_path, "seen").tasks
    assert (task.name, task.family, len(task.train), len(task.test)) == ("one", "f", 20, 1)
    assert [t.name for t in read_task_folder(tmp_path).tasks] == ["one", "two"]


@pytest.mark.parametrize("line", ['{"split": "train"}', "not json", '{"split":"dev","input":"a","output":"b"}', "[1]",
                                  '{"split":"train","input":"","output":"b"}'])  # fmt: skip
def test_an_invalid_jsonl_row_is_named_by_file_and_line(tmp_path: Path, line: str) -> None:
    good = json.dumps({"split": "train", "input": "a", "output": "b"})
    (tmp_path / "task.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ipt.DatasetError, match=r"task\.jsonl:2"):
        read_task_folder(tmp_path)
