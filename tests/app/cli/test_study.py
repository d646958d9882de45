"""`ipt subspace study`, from the folder of tasks to the report."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.root import run

Captured = pytest.CaptureFixture[str]

THINGS = ("movie", "book", "food", "place", "room", "staff", "phone", "app", "bill", "card", "song", "dog")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two seen tasks, an unseen one, and one that cannot be read."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("one", "two", "three"):
        rows = [
            {"split": split, "input": f"{word} {thing} {name} {more}".strip(), "output": label}
            for thing in THINGS
            for split, more in (("train", ""), ("test", "today"))
            for label, word in (("yes", "good"), ("no", "bad"))
        ]
        rows.append(rows[0] | {"output": "no"})
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "four.jsonl").write_text("no json")
    (folder / "five.jsonl").write_text("not in the index")
    texts = [{"split": "train", "input": f"say {number}", "output": f"the {number}"} for number in range(20)]
    texts += [{"split": "test", "input": "say it", "output": "it"}]
    lonely = [*rows, {"split": "train", "input": "all alone", "output": "once"}]
    for name, written in (("six", texts), ("seven", lonely)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, written)))
    splits = {"one": "seen", "two": "seen", "three": "unseen", "four": "unseen", "six": "unseen", "seven": "seen"}
    index = {name: {"family": name[0], "split": split} for name, split in splits.items()}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def refusal(
    tasks: Path, tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path: Path, capsys: Captured
) -> Callable[..., str]:
    """Runs `ipt subspace` with places for words in capitals, and gives the one line that it fails with."""
    places = {"TASKS": tasks, "BACKBONE": tiny_backbone_dir, "SUBSPACE": tiny_subspace_dir}
    places |= {"OUT": tmp_path / "out", "FILE": tmp_path / "file", "FOLDER": tmp_path / "folder"}

    def refused(*command: str) -> str:
        words = list(command)
        for name, path in places.items():
            words = [word.replace(name, str(path)) for word in words]
        assert run(["subspace", *words]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return refused


def test_a_study_ends_in_a_report_and_a_second_run_measures_nothing_again(
    tasks: Path, tiny_backbone_dir: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["subspace", "study", str(tasks), str(tmp_path / "out"), "--backbone", str(tiny_backbone_dir)]
    command += ["--device", "cpu", "--dimensions", "3", "--fit-steps", "2", "--seeds", "1", "--per-label", "4"]
    command += ["--curve", "", "--seen-tasks", "1", "--steps", "1", "--pt-steps", "1"]
    command += ["--method", "PT", "--method", "IST"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/ipt", *command])
    assert run([*command, "--json"]) == 0
    manifest = json.loads((tmp_path / "out" / "dimension-3" / "subspace.json").read_text())
    assert shlex.split(manifest["training"]["command"]) == ["ipt", *command]
    report = Path(json.loads(capsys.readouterr().out)["report"]).read_text()
    assert "| D | E_rel, seen | E_rel, unseen | IST, seen | IST, unseen |" in report
    assert "- four.jsonl:1: a row must be JSON" in report
    assert "- five.jsonl: left out, as index.json does not name the task" in report
    assert "- six: the outputs are texts, not labels that repeat, and an encoder does not write text" in report
    assert "- seven.jsonl: the label 'once' has 1 training row that the fit may see" in report
    assert "- one.jsonl:49: skipped: 'no' for an input that has 'yes' in one.jsonl:1" in report
    measured = (tmp_path / "out" / "measurements.jsonl").read_text()
    assert run(command) == 0
    assert (tmp_path / "out" / "measurements.jsonl").read_text() == measured
    assert (tmp_path / "out" / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "magic"], "no method 'magic'"),
        (["--ablation", "magic"], "no ablation 'magic'"),
        (["--dimensions", "5,ten"], "--dimensions takes numbers from 1 to 4096"),
        (["--curve", "0,4"], "--curve takes numbers from 1 to 10000"),
        (["--dimensions", "5,1000000000"], "--dimensions takes numbers from 1 to 4096"),
        (["--subspace", "SUBSPACE", "--dimensions", "5"], "has dimension 8, which --dimensions does not name"),
    ],
)
def test_a_study_that_cannot_be_is_one_line(
    options: list[str], said: str, refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert said in refusal("study", "TASKS", "OUT", "--backbone", "BACKBONE", "--device", "cpu", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["fit", "TASKS", "FILE"], "is no folder: choose another OUTPUT"),
        (["study", "TASKS", "FILE/study"], "is no folder: choose another OUTPUT"),
        (["import", "FILE", "FILE", "--backbone", "BACKBONE"], "is no folder: choose another OUTPUT"),
        (["tune-prompts", "TASKS", "FILE/prompts.safetensors"], "is no folder: choose another OUTPUT"),
        (["tune-prompts", "TASKS", "prompts"], "a file that ends in .safetensors"),
        (["evaluate", "TASKS", "out.jsonl"], "a file that ends in .md"),
        (["evaluate", "TASKS", "FOLDER.md"], "is a folder: choose the name of a file"),
        (["evaluate", "TASKS", "TASKS/one.md"], "one.jsonl:1: not a measurement"),
        (["fit", "TASKS", "SUBSPACE"], "has a finished subspace: choose another OUTPUT"),
    ],
)
def test_an_output_that_cannot_be_is_said_before_the_work(
    command: list[str], said: str, refusal: Callable[..., str], tasks: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("here already")
    (tmp_path / "folder.md").mkdir()
    (tasks / "four.jsonl").unlink()
    index = json.loads((tasks / "index.json").read_text())
    (tasks / "index.json").write_text(json.dumps({name: one for name, one in index.items() if name != "four"}))
    before = (tasks / "one.jsonl").read_text()
    measured = ["--backbone", "BACKBONE", "--subspace", "SUBSPACE", "--per-label", "4"]
    assert said in refusal(*command, *(measured if command[0] == "evaluate" else []))
    assert (tasks / "one.jsonl").read_text() == before
    assert (tmp_path / "file").read_text() == "here already"
