"""Commands that end without a service: usage, settings, and errors in one line."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from app.cli.root import cli, run
from app.settings import Settings
from tests.support.tiny import build_tiny_seq2seq

Captured = pytest.CaptureFixture[str]

ROWS = '{"input": "a", "output": "x"}\n'


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def another_server() -> Iterator[str]:
    """The address of a web server that is not ours and answers everything with HTML."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def one_error_line(captured: Captured) -> str:
    said = captured.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["adapt"], ["predict"], ["serve", "--port", "70000"], ["subspace", "nope"], ["tasks", "--nope"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(arguments) == 2


def test_standard_input_that_is_no_text_is_one_error_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "predict", "tsk_any"],
        input=b"caf\xe9\n",
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"error: standard input is not UTF-8 text, from byte 4 on: convert it first\n"


def every_command(command: Any, name: str = "") -> Iterator[str]:
    yield name
    for part, child in getattr(command, "commands", {}).items():
        yield from every_command(child, f"{name} {part}".strip())


@pytest.mark.parametrize("command", list(every_command(get_command(cli))))
def test_every_command_explains_itself(command: str, capsys: Captured) -> None:
    assert run([*command.split(), "--help"]) == 0
    assert "Usage: ipt" in capsys.readouterr().out


def test_settings_are_printed_with_secrets_masked(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_PORT", "9001")
    monkeypatch.setenv("IPT_API_KEY", "a-key-nobody-may-see")
    monkeypatch.setenv("IPT_DATABASE_URL", "postgresql://ipt:hidden-word@db/ipt")
    assert run(["settings", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["IPT_PORT"] == 9001
    assert run(["settings"]) == 0
    printed += capsys.readouterr().out
    assert "nobody-may-see" not in printed
    assert "hidden-word" not in printed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("IPT_MAX_ATTEMPTS", "many", "must be a whole number"),
        ("IPT_PORT", "70000", "must be at most 65535"),
        ("IPT_LEASE_SECONDS", "0", "must be more than 0"),
        ("IPT_REDIS_URL", "amqp://broker", "must start with redis://, rediss:// or redis+socket://"),
    ],
)
def test_a_wrong_setting_is_named_as_its_variable(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv(name, value)
    assert run(["settings"]) == 1
    assert one_error_line(capsys) == f"error: {name}: {message}\n"


@pytest.mark.parametrize(
    "command", [["tasks"], ["predict", "tsk_1", "text"], ["generate", "tsk_1", "text"], ["adapt", "rows.jsonl"]]
)
def test_no_service_is_one_line_that_says_what_to_do(
    command: list[str], free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(ROWS)
    assert run([*command, "--url", f"http://127.0.0.1:{free_port}"]) == 1
    assert "ipt serve" in one_error_line(capsys)


def test_the_service_may_be_named_by_the_environment(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_URL", f"http://127.0.0.1:{free_port}")
    assert run(["tasks"]) == 1
    assert str(free_port) in one_error_line(capsys)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://127.0.0.1", "http://", "http://[", "http://a b", "http://a..b", "http://a\nb", "::1"]
    + [f"http://127.0.0.1:{port}" for port in ("99999", "0", "-1", "http")],
)
def test_an_address_that_is_none(url: str, capsys: Captured) -> None:
    assert run(["tasks", "--url", url]) == 1
    assert "not the address of a service" in one_error_line(capsys)


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines", "tab\tbed", "ends in a space "])
def test_a_key_that_no_header_can_hold(key: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_API_KEY", key)
    assert run(["tasks"]) == 1
    assert "IPT_API_KEY cannot be sent" in one_error_line(capsys)


def ipt(*arguments: str, before: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `ipt` in a process of its own, after some lines of Python."""
    code = f"{before}\nfrom app.cli import main\nmain()"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-c", code, *arguments], text=True, check=False, **streams)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["settings", "settings --json", "--help"])
def test_a_full_disk_is_one_line(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = ipt(*command.split(), stdout=full)
    assert done.returncode == 1
    assert done.stderr == "error: the result cannot be written to standard output: No space left on device\n"


@pytest.mark.parametrize("command", ["settings", "settings --json", "--help"])
def test_a_closed_pipe_is_one_line(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = ipt(*command.split(), stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == "error: the result cannot be written to standard output: Broken pipe\n"


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "IPT_DATA_DIR": "f\u00fcr \U0001f600", "PYTHONUTF8": "1"}
    done = ipt("settings", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"f\xfcr \U0001f600" in done.stdout
    as_json = ipt("settings", "--json", env=environment)
    assert json.loads(as_json.stdout)["IPT_DATA_DIR"] == "f\u00fcr \U0001f600"


@pytest.mark.parametrize("module", ["app.cli.root", "typer", "httpx"])
def test_ctrl_c_while_a_command_is_loaded_is_quiet(module: str) -> None:
    interrupt = f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""
    done = ipt("tasks", before=interrupt)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_server_that_is_not_ours_is_recognized(another_server: str, capsys: Captured) -> None:
    assert run(["tasks", "--url", another_server]) == 1
    assert "not as this service does" in one_error_line(capsys)


def test_a_port_in_use_is_said_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPT_DATA_DIR", str(tmp_path / "data"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        assert run(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert not (tmp_path / "data").exists()


def test_serving_others_without_a_key_is_refused(free_port: int, capsys: Captured) -> None:
    assert run(["serve", "--host", "0.0.0.0", "--port", str(free_port)]) == 1
    assert "IPT_API_KEY" in one_error_line(capsys)


def test_a_worker_beside_the_api_has_a_port_of_its_own(
    free_port: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPT_METRICS_PORT", str(free_port))
    assert run(["serve", "--port", str(free_port)]) == 1
    assert "IPT_METRICS_PORT" in one_error_line(capsys)
    Settings(port=free_port)  # alone in a container of its own, a worker may listen where the API does elsewhere


@pytest.mark.parametrize("command", ["worker", "migrate"])
def test_commands_of_production_need_a_database(command: str, capsys: Captured) -> None:
    assert run([command]) == 1
    assert "IPT_DATABASE_URL is not set" in one_error_line(capsys)


def test_celery_needs_a_broker(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", "postgresql://127.0.0.1/none")
    assert run(["worker", "--celery"]) == 1
    assert "IPT_REDIS_URL" in one_error_line(capsys)


def test_migrating_a_database_that_is_not_there(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", f"postgresql://127.0.0.1:{free_port}/none")
    assert run(["migrate"]) == 1
    assert "cannot be migrated" in one_error_line(capsys)


def test_migrating_twice_does_no_harm(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_DATABASE_URL", empty_database_url)
    assert run(["migrate"]) == 0
    assert run(["migrate"]) == 0
    assert "up to date" in capsys.readouterr().err


def test_a_subspace_can_be_looked_at(tiny_subspace_dir: Path, capsys: Captured) -> None:
    assert run(["subspace", "info", str(tiny_subspace_dir)]) == 0
    printed = capsys.readouterr().out
    assert "8 floats" in printed
    assert run(["subspace", "info", str(tiny_subspace_dir), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["subspace_id"] in printed


def test_a_folder_that_is_no_subspace(tmp_path: Path, capsys: Captured) -> None:
    assert run(["subspace", "info", str(tmp_path)]) == 1
    assert "not found" in one_error_line(capsys)


def test_a_subspace_is_fitted_from_a_folder_of_tasks_and_can_be_used(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("one", "two", "three"):
        rows = [
            {"split": "train", "input": f"{word} {name} {number}", "output": label}
            for number in range(8)
            for label, word in (("yes", "good"), ("no", "bad"))
        ]
        rows += [{**rows[0], "output": "no"}] * (name == "two")
        (tasks / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["subspace", "fit", str(tasks), str(tmp_path / "out"), "--backbone", str(tiny_backbone_dir)]
    monkeypatch.setattr("sys.argv", ["/usr/bin/ipt", *command])
    assert run([*command, "--steps", "2", "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    skipped = "two.jsonl:17: skipped: 'no' for an input that has 'yes' in two.jsonl:1"
    assert skipped in printed.err
    fitted = json.loads(printed.out)
    assert run(["subspace", "info", str(tmp_path / "out"), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["subspace_id"] == fitted["subspace_id"]
    assert manifest["training"]["skipped"] == [skipped]
    assert manifest["training"]["command"] == " ".join(["ipt", *command])
    assert manifest["training"]["tasks"] == ["one", "three", "two"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subspace.json", "subspace.safetensors"]


@pytest.fixture
def crossfit_tasks(tmp_path: Path) -> Path:
    """A folder of two tasks as TSV files."""
    for name, labels in (("one", ("yes", "no")), ("two", ("good", "bad"))):
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        for part in ("train", "dev", "test"):
            rows = [
                f"the {word} {part} {number}\t{label}"
                for number in range(4)
                for word, label in zip("ab", labels, strict=True)
            ]
            (folder / f"{name}_4_13_{part}.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "tasks"


@pytest.mark.parametrize("dim", [5, 10])
def test_a_subspace_is_learned_from_tuned_prompts_of_a_backbone_that_writes(
    crossfit_tasks: Path, tmp_path: Path, capsys: Captured, dim: int
) -> None:
    bart = ["--backbone", str(build_tiny_seq2seq(tmp_path / "bart", "bart")), "--device", "cpu"]
    files = []
    for seed in ("0", "1"):
        files.append(str(tmp_path / f"prompts{seed}.safetensors"))
        tune = ["subspace", "tune-prompts", str(crossfit_tasks), files[-1], *bart, "--steps", "2", "--seed", seed]
        assert run([*tune, "--prompt-length", "3", "--per-label", "4", "--batch-tasks", "1", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert set(report["tasks"]) == {"one", "two"}
    assert json.loads((tmp_path / "prompts1.json").read_text()) == report
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), *bart, "--steps", "2"]
    command += ["--method", "autoencoder", "--prompts", files[0], "--prompts", files[1]]
    command += ["--task-weight", "2", "--reconstruction-weight", "9.5"]
    assert run([*command, "--intrinsic-dim", str(dim), "--learning-rate", "0.01", "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["reconstruction"] > 0
    assert run(["subspace", "compress", files[0], "--subspace", str(tmp_path / "out")]) == 0
    compressed = json.loads(capsys.readouterr().out)
    assert compressed["subspace_id"] == fitted["subspace_id"]
    assert {name: len(vector) for name, vector in compressed["vectors"].items()} == {"one": dim, "two": dim}
    manifest = json.loads((tmp_path / "out" / "subspace.json").read_text())
    asked = manifest["training"]["options"]
    assert (manifest["prompt_length"], asked["learning_rate"]) == (3, 0.01)
    assert (asked["task_weight"], asked["reconstruction_weight"]) == (2.0, 9.5)


def test_a_subspace_is_found_directly_on_a_backbone_that_writes(
    crossfit_tasks: Path, tmp_path: Path, capsys: Captured
) -> None:
    bart = str(build_tiny_seq2seq(tmp_path / "bart", "bart"))
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), "--backbone", bart, "--device", "cpu"]
    command += ["--intrinsic-dim", "7", "--prompt-length", "3", "--learning-rate", "0.01"]
    assert run([*command, "--steps", "2", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"subspace_id", "folder", "loss"}
    manifest = json.loads((tmp_path / "out" / "subspace.json").read_text())
    assert (manifest["intrinsic_dim"], manifest["prompt_length"]) == (7, 3)
    assert manifest["training"]["options"]["decoder_learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "autoencoder"], "give --prompts FILE"),
        (["--prompts", "PROMPTS"], "give --prompts FILE"),
        (["--task-weight", "2"], "--method autoencoder"),
        (["--method", "autoencoder", "--prompts", "PROMPTS", "--prompt-length", "9"], "4 positions, not 9"),
        (["--method", "autoencoder", "--prompts", "PROMPTS"], "no prompt of task 'two'"),
        (["--method", "autoencoder", "--prompts", "PROMPTS", "--prompts", "PROMPTS"], "all prompts are the same"),
        (["--method", "autoencoder", "--prompts", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_prompts_that_do_not_fit_the_command_are_one_line(
    options: list[str],
    said: str,
    crossfit_tasks: Path,
    tiny_backbone_dir: Path,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    import torch
    from safetensors.torch import save_file

    prompts = tmp_path / "prompts.safetensors"
    save_file({"one": torch.zeros(4, 32)}, prompts)
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), "--backbone", str(tiny_backbone_dir)]
    arguments = [str(prompts) if option == "PROMPTS" else option for option in options]
    assert run([*command, "--device", "cpu", *arguments]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("beyond", [("--seed", str(2**70)), ("--intrinsic-dim", "1000000000")])
def test_a_number_beyond_what_a_fit_can_take_is_refused_by_name(
    beyond: tuple[str, str], crossfit_tasks: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), *beyond]) == 2
    assert f"Invalid value for '{beyond[0]}': Input should be less than" in capsys.readouterr().err


def test_a_checkpoint_is_imported_and_compresses_prompts(tmp_path: Path, capsys: Captured) -> None:
    import torch
    from safetensors.torch import save_file

    bart = str(build_tiny_seq2seq(tmp_path / "bart", "bart"))
    flat, dim = 4 * 32, 3
    shapes = {"prompt_W1": (dim, flat), "prompt_W2": (flat, dim)}
    model = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    model |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    torch.save({"model": model}, tmp_path / "last-ckpt.pt")
    output = tmp_path / "subspace"
    assert run(["subspace", "import", str(tmp_path / "last-ckpt.pt"), str(output), "--backbone", bart, "--json"]) == 0
    imported = json.loads(capsys.readouterr().out)
    assert run(["subspace", "info", str(output)]) == 0
    assert imported["subspace_id"] in capsys.readouterr().out
    save_file({"tickets": torch.full((4, 32), 0.5)}, tmp_path / "prompts.safetensors")
    assert run(["subspace", "compress", str(tmp_path / "prompts.safetensors"), "--subspace", str(output)]) == 0
    compressed = json.loads(capsys.readouterr().out)
    assert compressed == {"subspace_id": imported["subspace_id"], "vectors": {"tickets": [flat / 2] * dim}}
    others = {"backbone": json.dumps({"id": "another", "weights_sha256": "0" * 64})}
    save_file({"tickets": torch.full((4, 32), 0.5)}, tmp_path / "others.safetensors", others)
    assert run(["subspace", "compress", str(tmp_path / "others.safetensors"), "--subspace", str(output)]) == 1
    assert "its prompts were tuned on 'another', not" in capsys.readouterr().err
    save_file({"tickets": torch.full((4, 32), 3e38)}, tmp_path / "large.safetensors")
    assert run(["subspace", "compress", str(tmp_path / "large.safetensors"), "--subspace", str(output)]) == 1
    assert "the numbers of tickets are too large for a task vector" in one_error_line(capsys)
    again = ["subspace", "import", str(tmp_path / "last-ckpt.pt"), str(output), "--backbone", bart]
    assert run(again) == 1
    assert "has a finished subspace: choose another OUTPUT" in one_error_line(capsys)


def test_what_cannot_be_written_is_one_line(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("app.cli.subspace._check_unfinished", full)
    assert run(["subspace", "fit", str(tmp_path), str(tmp_path / "out")]) == 1
    assert one_error_line(capsys) == "error: somewhere: No space left on device\n"


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    bart = str(build_tiny_seq2seq(tmp_path / "bart", "bart"))
    (tmp_path / "ckpt.pt").write_bytes(b"junk")
    capsys.readouterr()
    assert run(["subspace", "import", str(tmp_path / "ckpt.pt"), str(tmp_path / "out"), "--backbone", bart]) == 1
    assert "ckpt.pt" in one_error_line(capsys)


def test_a_subspace_is_evaluated_and_a_second_run_measures_nothing_again(
    tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    rows = [
        {"split": split, "input": f"{word} {thing}", "output": label}
        for thing in ("movie", "book", "food", "place", "room", "staff", "phone", "app")
        for split, thing_of in (("train", thing), ("test", f"the {thing}"))
        for label, word in (("yes", f"good {thing_of}"), ("no", f"bad {thing_of}"))
    ]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = tmp_path / "report.md"
    command = ["subspace", "evaluate", str(tmp_path / "tasks"), str(report), "--backbone", str(tiny_backbone_dir)]
    command += ["--subspace", str(tiny_subspace_dir), "--device", "cpu", "--seeds", "1", "--steps", "2"]
    command += ["--per-label", "8"]
    command += ["--pt-steps", "2", "--method", "logistic regression", "--method", "PT", "--method", "IST"]
    assert run([*command, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["e_rel"]) == {"one"}
    assert "| task | logistic regression | PT | IST | E_rel |" in report.read_text()
    measured = report.with_suffix(".jsonl").read_text()
    assert measured.count("\n") == 3
    assert run(command) == 0
    assert report.with_suffix(".jsonl").read_text() == measured
    assert run([*command, "--method", "magic"]) == 1
    assert "no method 'magic'" in capsys.readouterr().err


def test_a_dataset_becomes_a_task_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "films").mkdir()
    for split in ("train", "test"):
        rows = [{"words": f"{split} {label}", "mood": label} for label in (0, 1)]
        (tmp_path / "films" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["subspace", "import-dataset", str(tmp_path / "films"), str(tmp_path / "tasks"), "--family", "mood"]
    command += ["--input-column", "words", "--output-column", "mood", "--label-names", "sad,glad", "--as", "unseen"]
    assert run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"file": str(tmp_path / "tasks" / "films.jsonl"), "train": 2, "test": 2, "notes": []}
    assert json.loads((tmp_path / "tasks" / "index.json").read_text()) == {
        "films": {"family": "mood", "split": "unseen"}
    }
    assert run([*command[:4], "--name", "more"]) == 1
    assert "no column 'text'" in one_error_line(capsys)


def test_a_dataset_without_the_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert run(["subspace", "import-dataset", "films", str(tmp_path)]) == 1
    assert "[hub]" in one_error_line(capsys)
