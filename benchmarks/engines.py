"""The two engines, tuning and prediction, against their limits and against peers, side by side in one process.

    python -m benchmarks.engines [--device cuda] [--quick]

Writes its section of docs/benchmarks.md: one for the CPU, one for a GPU. For a GPU, PyTorch, transformers, peft,
safetensors and numpy are all that has to be installed; SetFit, LitServe and the service itself take part on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import backbones
from benchmarks.adaptation_rows import adaptation
from benchmarks.engine_rows import as_shipped, distinct_tasks, fused, prediction, random_tasks, set_adapter, tuning_step
from benchmarks.generation_rows import generation
from benchmarks.machine import provenance
from benchmarks.report import Figure, section, write
from ipt.runtime.threads import limit_cpu_threads


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--backbones", nargs="*", choices=backbones.NAMES, help="all that suit the device without it")
    parser.add_argument("--only", nargs="*", help="names of rows, to look at: nothing is written then")
    parser.add_argument("--minilm", type=Path, help="MiniLM's folder, where its package is not installed")
    parser.add_argument("--quick", action="store_true", help="one round of each instead of five")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    began = time.perf_counter()
    limit_cpu_threads(device)
    figures: list[Figure] = []
    what = "All of it"
    try:
        figures.extend(measure(device, asked.backbones, asked.only, asked.minilm, rounds=1 if asked.quick else 5))
    except KeyboardInterrupt:  # minutes of measuring are worth a report
        what = "It was stopped before its end, and"
    took = f" {what} took {(time.perf_counter() - began) / 60:.0f} minutes."
    options = [*(["--backbones", *asked.backbones] if asked.backbones else []), *(["--quick"] if asked.quick else [])]
    command = " ".join(["python -m benchmarks.engines --device", device.type, *options])
    where = "CPU" if device.type == "cpu" else "GPU"
    report = section(f"Engines on a {where}", origin(command, device) + took, figures)
    if not asked.only:
        write(report)
    print(report)


def origin(command: str, device: torch.device) -> str:
    """Where the figures come from; of a GPU, which."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    peers = [name for name in ("peft", "setfit", "litserve") if importlib.util.find_spec(name)]
    return provenance(command, *peers, accelerator=accelerator)


def measure(
    device: torch.device, names: Sequence[str] | None, only: Sequence[str] | None, minilm: Path | None, rounds: int
) -> Iterator[Figure]:
    """All rows, in the order of the table. A GPU has room, and time, for large backbones."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for name in names or (("MiniLM", "GPT-2") if device.type == "cpu" else backbones.NAMES):
        measured = backbones.load(name, device, dtype, minilm)
        rows: list[Callable[[backbones.Measured, int], Figure | Iterator[Figure]]] = []
        if name == "MiniLM" or device.type != "cpu":
            rows += [fused, tuning_step]
        if name in backbones.CAUSAL:
            rows.append(generation)
        if name == "MiniLM":
            rows += [as_shipped, distinct_tasks, random_tasks, prediction, set_adapter, adaptation]
        served = all(importlib.util.find_spec(package) for package in ("litserve", "pydantic_settings", "psycopg"))
        if name == "MiniLM" and device.type == "cpu" and served:
            from benchmarks.service_rows import service

            rows.append(service)
        for row in rows:
            if only and row.__name__ not in only:
                continue
            began = time.perf_counter()
            given = row(measured, rounds)
            for figure in (given,) if isinstance(given, Figure) else given:
                print(f"{figure.what}: {figure.measured} (wanted: {figure.wanted})", file=sys.stderr, flush=True)
                yield figure
            print(f"{name}, {row.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
