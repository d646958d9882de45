"""The engine benchmarks: their dependencies on a GPU machine, their backbones, and alternating timing."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

import ipt
from benchmarks.engines import backbones
from benchmarks.engines.timing import faster, in_turn

ROOT = Path(__file__).parents[3]
INSTALLED = {"torch", "transformers", "peft", "safetensors", "numpy", "ipt", "benchmarks"}
MODULES = {
    *("benchmarks.machine", "benchmarks.report", "benchmarks.engines", "benchmarks.engines.__main__"),
    *("benchmarks.engines.tuning_and_prediction", "benchmarks.engines.one_adaptation", "benchmarks.engines.generation"),
    *("benchmarks.engines.backbones", "benchmarks.engines.peft_peer", "benchmarks.engines.timing"),
}


def test_a_gpu_machine_needs_only_the_core_and_peft() -> None:
    for module in MODULES - {"benchmarks.engines"}:
        path = ROOT / f"{module.replace('.', '/')}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in INSTALLED | set(sys.stdlib_module_names), (module, name)
                assert name.partition(".")[0] != "benchmarks" or name in MODULES


def test_a_backbone_of_random_weights_has_a_matching_subspace(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = GPT2Config(vocab_size=30522, n_embd=16, n_layer=1, n_head=2, n_positions=160)
    monkeypatch.setattr(backbones, "_random_model", lambda _: AutoModelForCausalLM.from_config(tiny))
    measured = backbones.load("GPT-2", torch.device("cpu"), torch.float32)
    engine = ipt.TuningEngine(measured.backbone, measured.subspace)
    engine.add(ipt.TuningJob("a", backbones.few_shot(1, 0), "text2text", hyperparameters=ipt.Hyperparameters(steps=1)))
    while not all(report.done for report in engine.step()):
        pass


def test_timing_alternates_and_discards_the_warm_up_round() -> None:
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    seconds = in_turn(ways, 3, torch.device("cpu"))
    assert "".join(order) == "abbaabba"
    assert [len(each) for each in seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_over_the_rounds() -> None:
    ratio = faster({"ours": [1.0, 2.0, 10.0], "theirs": [2.0, 6.0, 5.0]}, "ours", "theirs")
    assert ratio.median == 2.0
    assert str(ratio) == "2.00× (0.50 to 3.00)"
