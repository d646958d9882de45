"""`ipt subspace study` from a folder of tasks to the report, and errors before long commands start."""

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
    """Seen and unseen tasks, some of which cannot be read or measured."""
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
    rare_label = [*rows, {"split": "train", "input": "only once", "output": "once"}]
    for name, written in (("six", texts), ("seven", rare_label)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, written)))
    splits = {"one": "seen", "two": "seen", "three": "unseen", "four": "unseen", "six": "unseen", "seven": "seen"}
    index = {name: {"family": name[0], "split": split} for name, split in splits.items()}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def error_of(
    tasks: Path, tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path: Path, capsys: Captured
) -> Callable[..., str]:
    """Run `ipt subspace` with paths in place of words in capitals, and return its error line."""
    paths = {"TASKS": tasks, "BACKBONE": tiny_backbone_dir, "SUBSPACE": tiny_subspace_dir}
    paths |= {"OUT": tmp_path / "out", "FILE": tmp_path / "file", "FOLDER": tmp_path / "folder"}

    def error_of(*command: str) -> str:
        words = list(command)
        for name, path in paths.items():
            words = [word.replace(name, str(path)) for word in words]
        assert run(["subspace", *words]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return error_of


def test_study_writes_a_report_and_reuses_stored_measurements(
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
    ("options", "message"),
    [
        (["--method", "magic"], "unknown method 'magic'"),
        (["--ablation", "magic"], "unknown ablation 'magic'"),
        (["--dimensions", "5,ten"], "--dimensions takes numbers from 1 to 4096"),
        (["--curve", "0,4"], "--curve takes numbers from 1 to 10000"),
        (["--dimensions", "5,1000000000"], "--dimensions takes numbers from 1 to 4096"),
        (["--subspace", "SUBSPACE", "--dimensions", "5"], "has dimension 8: add it to --dimensions"),
    ],
)
def test_invalid_options_of_a_study_are_one_error_line(
    options: list[str], message: str, error_of: Callable[..., str], tmp_path: Path
) -> None:
    assert message in error_of("study", "TASKS", "OUT", "--backbone", "BACKBONE", "--device", "cpu", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "TASKS", "FILE"], "is not a folder: choose another OUTPUT"),
        (["study", "TASKS", "FILE/study"], "is not a folder: choose another OUTPUT"),
        (["import", "FILE", "FILE", "--backbone", "BACKBONE"], "is not a folder: choose another OUTPUT"),
        (["tune-prompts", "TASKS", "FILE/prompts.safetensors"], "is not a folder: choose another OUTPUT"),
        (["tune-prompts", "TASKS", "prompts"], "a file name that ends in .safetensors"),
        (["evaluate", "TASKS", "out.jsonl"], "a file name that ends in .md"),
        (["evaluate", "TASKS", "FOLDER.md"], "is a folder: OUTPUT must be a file name"),
        (["evaluate", "TASKS", "TASKS/one.md"], "one.jsonl:1: not a measurement"),
        (["fit", "TASKS", "SUBSPACE"], "has a finished subspace: choose another OUTPUT"),
    ],
)
def test_an_unusable_output_is_reported_before_the_work(
    command: list[str], message: str, error_of: Callable[..., str], tasks: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("existing content")
    (tmp_path / "folder.md").mkdir()
    (tasks / "four.jsonl").unlink()
    index = json.loads((tasks / "index.json").read_text())
    (tasks / "index.json").write_text(json.dumps({name: entry for name, entry in index.items() if name != "four"}))
    before = (tasks / "one.jsonl").read_text()
    measured = ["--backbone", "BACKBONE", "--subspace", "SUBSPACE", "--per-label", "4"]
    assert message in error_of(*command, *(measured if command[0] == "evaluate" else []))
    assert (tasks / "one.jsonl").read_text() == before
    assert (tmp_path / "file").read_text() == "existing content"
