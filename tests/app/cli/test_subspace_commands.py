"""The commands below `ipt subspace`, on tiny backbones."""

import json
from pathlib import Path

import pytest

from app.cli.root import run
from tests.support.cli import Captured, one_error_line
from tests.support.tiny import build_tiny_seq2seq
from tests.support.tiny_chat import build_tiny_chat


def test_info_prints_the_manifest(tiny_subspace_dir: Path, capsys: Captured) -> None:
    assert run(["subspace", "info", str(tiny_subspace_dir)]) == 0
    printed = capsys.readouterr().out
    assert "8 floats" in printed
    assert run(["subspace", "info", str(tiny_subspace_dir), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["subspace_id"] in printed


def test_info_on_a_folder_without_a_subspace_is_one_error_line(tmp_path: Path, capsys: Captured) -> None:
    assert run(["subspace", "info", str(tmp_path)]) == 1
    assert "not found" in one_error_line(capsys)


def test_fit_writes_a_subspace_and_records_command_tasks_and_skipped_rows(
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


@pytest.mark.parametrize(
    ("placement", "option", "rows"),
    [
        ("every_layer", (), 4 * 2 * 2),
        ("every_layer", ("--prompt-length", "3"), 3 * 2 * 2),
        ("upper_layers", (), 4 * 2 * 1),
    ],
)
def test_prompts_in_layers_have_keys_and_values_for_each_position_and_layer(
    crossfit_tasks: Path,
    tiny_backbone_dir: Path,
    tmp_path: Path,
    capsys: Captured,
    placement: str,
    option: tuple[str, ...],
    rows: int,
) -> None:
    backbone = ["--backbone", str(tiny_backbone_dir), "--device", "cpu"]
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), *backbone, "--steps", "2"]
    assert run([*command, "--placement", placement, *option, "--json"]) == 0
    capsys.readouterr()
    assert run(["subspace", "info", str(tmp_path / "out"), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["prompt_placement"] == placement
    assert manifest["prompt_length"] == rows


def test_a_fitted_subspace_is_redirected_to_where_whole_prompts_were_tuned(
    crossfit_tasks: Path, tiny_backbone_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    fitted, prompts, output = (str(tmp_path / name) for name in ("fitted", "prompts.safetensors", "output"))
    backbone = ["--backbone", str(tiny_backbone_dir)]
    fit = ["subspace", "fit", str(crossfit_tasks), fitted, "--steps", "2", "--intrinsic-dim", "4"]
    assert run([*fit, *backbone, "--device", "cpu"]) == 0
    capsys.readouterr()
    tune = ["subspace", "tune-prompts", str(crossfit_tasks), prompts, "--start", fitted, *backbone, "--device", "cpu"]
    assert run([*tune, "--prompt-length", "3"]) == 1
    assert "omit --prompt-length" in one_error_line(capsys)
    assert run([*tune, "--steps", "2", "--learning-rate", "0.1"]) == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "prompts.json").read_text())
    moved = sum(task["moved"] for task in report["tasks"].values())
    redirect = ["subspace", "redirect", fitted, output, *backbone, "--dimensions"]
    assert run([*redirect, "3", "--prompts", prompts]) == 1
    assert f"and {moved} of 2 are: tune more prompts" in one_error_line(capsys)
    assert run([*redirect, "3", "--json"]) == 0
    created = json.loads(capsys.readouterr().out)
    assert created["subspace_id"] != report["start"]
    gradients = [*redirect[:3], str(tmp_path / "gradients"), *redirect[4:], "4", "--tasks", str(crossfit_tasks)]
    assert run([*gradients, "--prompts", prompts]) == 1
    assert "give one of them" in one_error_line(capsys)
    assert run([*gradients, "--device", "cpu"]) == 0
    assert "gradients: step 6 of 6" in capsys.readouterr().err
    assert run([*redirect, "3", "--split", "seen"]) == 1
    assert "give --tasks FOLDER" in one_error_line(capsys)


def test_an_unknown_placement_is_named_with_the_known_ones(
    crossfit_tasks: Path, tiny_backbone_dir: Path, tmp_path: Path, capsys: Captured
) -> None:
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), "--backbone", str(tiny_backbone_dir)]
    assert run([*command, "--placement", "middle"]) == 1
    assert "unknown prompt placement 'middle'; expected one of: after_first_token" in capsys.readouterr().err


@pytest.mark.parametrize("dim", [5, 10])
def test_an_autoencoder_is_fitted_on_tuned_prompts_of_a_seq2seq_backbone(
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
    options = manifest["training"]["options"]
    assert (manifest["prompt_length"], options["learning_rate"]) == (3, 0.01)
    assert (options["task_weight"], options["reconstruction_weight"]) == (2.0, 9.5)


def test_a_direct_fit_on_a_seq2seq_backbone(crossfit_tasks: Path, tmp_path: Path, capsys: Captured) -> None:
    bart = str(build_tiny_seq2seq(tmp_path / "bart", "bart"))
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), "--backbone", bart, "--device", "cpu"]
    command += ["--intrinsic-dim", "7", "--prompt-length", "3", "--learning-rate", "0.01"]
    assert run([*command, "--steps", "2", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"subspace_id", "folder", "loss"}
    manifest = json.loads((tmp_path / "out" / "subspace.json").read_text())
    assert (manifest["intrinsic_dim"], manifest["prompt_length"]) == (7, 3)
    assert manifest["training"]["options"]["decoder_learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "autoencoder"], "give --prompts FILE"),
        (["--prompts", "PROMPTS"], "give --prompts FILE"),
        (["--task-weight", "2"], "--method autoencoder"),
        (["--method", "autoencoder", "--prompts", "PROMPTS", "--prompt-length", "9"], "4 positions, not 9"),
        (["--method", "autoencoder", "--prompts", "PROMPTS"], "no prompt for task 'two'"),
        (["--method", "autoencoder", "--prompts", "PROMPTS", "--prompts", "PROMPTS"], "all prompts are the same"),
        (["--method", "autoencoder", "--prompts", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_unsuitable_prompts_are_one_error_line(
    options: list[str],
    message: str,
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
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("identity", "options", "message"),
    [
        ("default", [], "or for another prompt placement"),
        ("every_layer", ["--prompt-length", "3"], "one has 2 positions, not 3: omit --prompt-length"),
    ],
)
def test_prompts_that_do_not_suit_every_layer_are_one_error_line(
    identity: str,
    options: list[str],
    message: str,
    crossfit_tasks: Path,
    tiny_backbone_dir: Path,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    import torch
    from safetensors.torch import save_file

    import ipt

    backbone = ipt.load_backbone(str(tiny_backbone_dir), device="cpu")
    if identity == "every_layer":
        backbone = backbone.placed("every_layer")
    prompts = tmp_path / "prompts.safetensors"
    metadata = {"id": backbone.identity.id, "weights_sha256": backbone.prompt_identity}
    save_file({"one": torch.zeros(2 * 2 * 2, 32)}, prompts, {"backbone": json.dumps(metadata)})
    command = ["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), "--backbone", str(tiny_backbone_dir)]
    command += ["--device", "cpu", "--placement", "every_layer", "--method", "autoencoder", "--prompts", str(prompts)]
    assert run([*command, *options]) == 1
    assert message in one_error_line(capsys)


@pytest.mark.parametrize("option", [("--seed", str(2**70)), ("--intrinsic-dim", "1000000000")])
def test_an_option_out_of_range_is_named(
    option: tuple[str, str], crossfit_tasks: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(["subspace", "fit", str(crossfit_tasks), str(tmp_path / "out"), *option]) == 2
    assert f"Invalid value for '{option[0]}': Input should be less than" in capsys.readouterr().err


def test_an_imported_checkpoint_compresses_prompts(tmp_path: Path, capsys: Captured) -> None:
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


def test_a_failed_write_is_one_error_line(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("app.cli.subspace.check_new_subspace", full)
    assert run(["subspace", "fit", str(tmp_path), str(tmp_path / "out")]) == 1
    assert one_error_line(capsys) == "error: somewhere: No space left on device\n"


def test_an_invalid_checkpoint_is_one_error_line(tmp_path: Path, capsys: Captured) -> None:
    bart = str(build_tiny_seq2seq(tmp_path / "bart", "bart"))
    (tmp_path / "ckpt.pt").write_bytes(b"junk")
    capsys.readouterr()
    assert run(["subspace", "import", str(tmp_path / "ckpt.pt"), str(tmp_path / "out"), "--backbone", bart]) == 1
    assert "ckpt.pt" in one_error_line(capsys)


def test_evaluate_reuses_stored_measurements(
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
    assert "unknown method 'magic'" in capsys.readouterr().err


def test_import_dataset_adds_a_task_to_a_folder(
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
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"file": str(tmp_path / "tasks" / "films.jsonl"), "train": 2, "test": 2, "notes": []}
    assert json.loads((tmp_path / "tasks" / "index.json").read_text()) == {
        "films": {"family": "mood", "split": "unseen"}
    }
    assert run([*command[:4], "--name", "more"]) == 1
    assert "no column 'text'" in one_error_line(capsys)


def test_import_dataset_without_the_datasets_package_is_one_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert run(["subspace", "import-dataset", "films", str(tmp_path)]) == 1
    assert "[hub]" in one_error_line(capsys)


@pytest.mark.parametrize(
    ("options", "placement", "turn"),
    [
        ([], "every_layer", "user\n{input}<|im_end|>"),
        (["--placement", "user_turn", "--prompt-length", "4"], "user_turn", "user\n{prompt}\n{input}<|im_end|>"),
    ],
)
def test_a_fit_on_a_chat_model_uses_its_template(
    options: list[str], placement: str, turn: str, crossfit_tasks: Path, tmp_path: Path
) -> None:
    model, output = build_tiny_chat(tmp_path / "model"), tmp_path / "out"
    command = ["subspace", "fit", str(crossfit_tasks), str(output), "--backbone", str(model), "--device", "cpu"]
    command += ["--vector-learning-rate", "0.04", "--bias-learning-rate", "0.05"]
    assert run([*command, *options, "--steps", "2", "--tasks-per-step", "1", "--rows-per-task", "2"]) == 0
    manifest = json.loads((output / "subspace.json").read_text())
    layers_in_rows = 2  # of 32 numbers: keys and values of two layers, two heads of 8 each
    assert (manifest["prompt_placement"], manifest["prompt_length"]) == (placement, 4 if options else layers_in_rows)
    fit_options = manifest["training"]["options"]
    names = ("tasks_per_step", "rows_per_task", "vector_learning_rate", "bias_learning_rate")
    assert [fit_options[name] for name in names] == [1, 2, 0.04, 0.05]
    assert turn in manifest["template"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "autoencoder"], "give --prompts FILE with it"),
        (["--task-weight", "2"], "need --method autoencoder"),
        (["--method", "autoencoder", "--prompts", "p", "--vector-learning-rate", "1"], "need --method direct"),
        (
            ["--method", "autoencoder", "--prompts", "p", "--zero-vector-probability", "1"],
            "--zero-vector-probability need",
        ),
    ],
)
def test_options_of_the_other_method_are_one_error_line(
    options: list[str], message: str, tmp_path: Path, capsys: Captured
) -> None:
    assert run(["subspace", "fit", str(tmp_path), str(tmp_path / "out"), *options]) == 1
    assert message in one_error_line(capsys)
