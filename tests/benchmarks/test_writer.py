"""The benchmark of a model that writes, on a tiny chat model with random weights."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipt
from benchmarks.writer import __main__ as benchmark
from benchmarks.writer import demo, vectors
from benchmarks.writer.context import answers_after
from benchmarks.writer.draws import TextDraw
from benchmarks.writer.report import IN_CONTEXT, INSTRUCTION, IST, LORA, PT, RANDOM, ZERO, nearest_family
from ipt.backbones.interface import TextBackbone
from ipt.data.task_folder import read_task_folder
from ipt.evaluation.evaluation import Evaluation
from ipt.evaluation.protocol import EvaluationOptions
from tests.support.tiny_chat import build_tiny_chat, save_chat_subspace

THINGS = [f"{color} {thing}" for color in ("red", "blue", "old") for thing in ("phone", "card", "book", "film")]
METHODS = [ZERO, IST, INSTRUCTION, IN_CONTEXT, RANDOM, PT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, a subspace for it, and tasks: an unseen one of texts, a seen one of labels."""
    folder = tmp_path_factory.mktemp("writer")
    backbone = ipt.load_backbone(str(build_tiny_chat(folder / "backbone")), device="cpu")
    save_chat_subspace(folder / "subspace", backbone)
    tasks: dict[str, list[tuple[str, str]]] = {
        "order": [(f"send me the {thing}", thing) for thing in THINGS],
        "color": [(thing, thing.partition(" ")[0]) for thing in THINGS],
    }
    index = {
        "order": {"split": "unseen", "family": "order", "instruction": "Name the thing."},
        "color": {"split": "seen", "family": "color"},
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / "index.json").write_text(json.dumps(index))
    for name, rows in tasks.items():
        lines = [
            json.dumps({"split": split, "input": text if split == "train" else f"{text} today", "output": output})
            for split in ("train", "test")
            for text, output in (rows if split == "train" else rows[::6])
        ]
        (folder / "tasks" / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def run(folder: Path, output: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    arguments = [str(folder / "tasks"), "--backbone", str(folder / "backbone"), "--subspace", str(folder / "subspace")]
    sizes = ["--per-label", "3", "--seeds", "1", "--steps", "1", "--pt-steps", "1", "--context-tokens", "64"]
    benchmark.main([*arguments, *sizes, "--device", "cpu", "--output", str(output), *options])
    lines = (output.with_suffix("") / "measurements.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], output.read_text()


def test_an_interrupted_run_resumes_and_the_page_compares_all_methods(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "page.md"
    first, page = run(folder, output, "--methods", ZERO, IN_CONTEXT, "--seen-tasks", "0")
    assert [(line["task"], line["method"]) for line in first] == [("order", ZERO), ("order", IN_CONTEXT)]
    assert "| IST above the zero vector, unseen tasks | – | ≥ +5 | – |" in page
    lines, page = run(folder, output, "--methods", *METHODS)
    assert lines[: len(first)] == first, "stored measurements are not repeated"
    keys = [(line["task"], line["method"]) for line in lines]
    expected = {(task, method) for task in ("color", "order") for method in METHODS}
    assert sorted(keys) == sorted(expected - {("color", INSTRUCTION)})
    by_method = {line["method"]: line["detail"] for line in lines if line["task"] == "order"}
    assert by_method[IN_CONTEXT]["tokens_read"] > by_method[IST]["tokens_read"] > 4
    assert all({"exact_match", "token_f1", "rouge_l"} <= line["detail"].keys() for line in lines)
    for method in METHODS:
        assert f"| {method} | " in page
    assert "E_rel, seen tasks" in page
    monkeypatch.setattr(benchmark, "_measure", None)
    assert run(folder, output, "--methods", *METHODS, "--report") == (lines, page)


def test_vectors_of_shared_families_are_tuned_once_and_shown(folder: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(folder / "tasks", tasks)
    shutil.copy(tasks / "order.jsonl", tasks / "parcel.jsonl")
    families = {"order": "things", "parcel": "things", "color": "colors"}
    index = {name: {"split": "unseen", "family": family} for name, family in families.items()}
    (tasks / "index.json").write_text(json.dumps(index))
    places = ["--backbone", str(folder / "backbone"), "--subspace", str(folder / "subspace"), "--device", "cpu"]
    output = tmp_path / "page" / "vectors.jsonl"
    options = ["--per-label", "3", "--steps", "1", "--output", str(output)]
    for _ in range(2):
        vectors.main([str(tasks), *places, *options])
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["task"] for line in lines] == ["order", "parcel"]
    np.testing.assert_allclose(lines[0]["vector"], lines[1]["vector"])  # the same rows
    read = vectors.read_vectors(output, lines[0]["subspace"])
    assert read.vectors.shape == (2, len(lines[0]["vector"]))
    assert vectors.read_vectors(output, "sub_other").names == []


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")
def test_lora_is_measured_and_leaves_the_backbone_as_it_was(folder: Path, tmp_path: Path) -> None:
    lines, _ = run(folder, tmp_path / "page.md", "--methods", LORA, ZERO, "--lora-steps", "2", "--seen-tasks", "0")
    assert {line["method"] for line in lines} == {LORA, ZERO}
    assert all(line["detail"]["numbers"] > 0 for line in lines if line["method"] == LORA)


def test_an_answer_in_context_is_the_one_after_the_same_tokens(folder: Path) -> None:
    backbone = ipt.load_backbone(str(folder / "backbone"), device="cpu")
    evaluation = Evaluation(backbone, ipt.load_subspace(folder / "subspace", backbone), EvaluationOptions(per_label=3))
    plain = backbone.placed("user_turn")
    assert isinstance(plain, TextBackbone)
    ids = plain.tokenizer("hello hello", add_special_tokens=False)["input_ids"]
    prompt = plain.prompts_of_tokens(torch.tensor([ids]))
    tasks = {task.name: task for task in read_task_folder(folder / "tasks").tasks}
    for name in ("order", "color"):
        draw = TextDraw(tasks[name], 0, evaluation)
        rows = plain.tokenize(draw.texts)
        prompts = prompt.expand(len(rows), -1, -1)
        if name == "order":
            expected = [answer.text for answer in plain.answer(rows, prompts)]
        else:
            labels = list(dict.fromkeys(example.output for example in draw.examples))
            scores = plain.score_labels(rows, plain.tokenize_targets(labels), prompts)
            expected = [labels[number] for number in scores.argmax(dim=1).tolist()]
        # A character that the last token begins is left out of a text that is written in pieces.
        answers = [answer.rstrip("\ufffd") for answer in answers_after(plain, ids, draw.examples, draw.texts)]
        assert answers == [answer.rstrip("\ufffd") for answer in expected]


def test_the_nearest_task_is_of_the_same_family() -> None:
    vectors = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    cosines = vectors @ vectors.T
    assert nearest_family(cosines, ["a", "a", "b", "b", "c"]) == (1.0, 0.25, 4)
    assert nearest_family(cosines, ["a", "b", "a", "b", "c"])[0] == 0.0


def test_the_demo_shows_a_task_before_and_after(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr(demo, "TASKS", demo.TASKS[:1])
    file = f"{demo.TASKS[0].name}.jsonl"
    lines = (benchmark.ROOT / "examples" / file).read_text().splitlines()
    (tmp_path / file).write_text("\n".join(lines[: demo.TRAINED + 2]))
    options = ["--backbone", str(folder / "backbone"), "--subspace", str(folder / "subspace"), "--steps", "0"]
    demo.main([*options, "--examples", str(tmp_path), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "order_mails: 32 examples, 2 new texts" in printed
    assert printed.count("tuned, 8 numbers") == 1 + 2, "in the table, and below each text"
    assert "2 of 2 answers parse and fit" in printed
