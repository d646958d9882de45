"""The engines' benchmark: what it needs on a GPU machine, and that its ways are timed in turn."""

import ast
import sys
from pathlib import Path

import torch

from benchmarks.timing import faster, in_turn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
INSTALLED = {"torch", "transformers", "peft", "safetensors", "numpy", "ipt", "benchmarks"}
MODULES = (
    "engines",
    "engine_rows",
    "generation_rows",
    "adaptation_rows",
    "backbones",
    "peft_peer",
    "timing",
    "machine",
    "report",
)


def test_a_gpu_machine_needs_nothing_but_the_core_and_peft() -> None:
    for module in MODULES:
        for node in ast.parse((BENCHMARKS / f"{module}.py").read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in INSTALLED | set(sys.stdlib_module_names), (module, name)
                assert name.partition(".")[0] != "benchmarks" or name.rpartition(".")[2] in (*MODULES, "benchmarks")


def test_ways_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    seconds = in_turn(ways, 3, torch.device("cpu"))
    assert "".join(order) == "abbaabba"
    assert [len(each) for each in seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    ratio = faster({"ours": [1.0, 2.0, 10.0], "theirs": [2.0, 6.0, 5.0]}, "ours", "theirs")
    assert ratio.median == 2.0
    assert str(ratio) == "2.00× (0.50 to 3.00)"
