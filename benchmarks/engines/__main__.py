"""The tuning and prediction engines against their limits and against peers, in one process.

    python -m benchmarks.engines [--device cuda] [--quick]

Writes a section of docs/benchmarks.md, for the CPU or a GPU. On a GPU it needs only PyTorch, transformers, peft,
safetensors and numpy; SetFit, LitServe and the service itself are measured on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.engines import backbones
from benchmarks.engines.generation import generation
from benchmarks.engines.one_adaptation import adaptation
from benchmarks.engines.tuning_and_prediction import (
    as_shipped,
    distinct_tasks,
    fused,
    prediction,
    random_tasks,
    set_adapter,
    tuning_step,
)
from benchmarks.machine import provenance
from benchmarks.report import Figure, section, write
from ipt.runtime.threads import limit_cpu_threads


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--backbones", nargs="*", choices=backbones.NAMES, help="default: all on a GPU, two on a CPU")
    parser.add_argument("--only", nargs="*", help="measure only these rows, and write nothing")
    parser.add_argument("--minilm", type=Path, help="folder of MiniLM, if its package is not installed")
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    began = time.perf_counter()
    limit_cpu_threads(device)
    figures: list[Figure] = []
    extent = "The whole run"
    try:
        rounds = 1 if options.quick else 5
        figures.extend(measure(device, options.backbones, options.only, options.minilm, rounds))
    except KeyboardInterrupt:  # the figures so far are worth a report
        extent = "It was interrupted; it"
    duration = f" {extent} took {(time.perf_counter() - began) / 60:.0f} minutes."
    flags = ["--backbones", *options.backbones] if options.backbones else []
    flags += ["--quick"] if options.quick else []
    command = " ".join(["python -m benchmarks.engines --device", device.type, *flags])
    kind = "CPU" if device.type == "cpu" else "GPU"
    report = section(f"Engines on a {kind}", origin(command, device) + duration, figures)
    if not options.only:
        write(report)
    print(report)


def origin(command: str, device: torch.device) -> str:
    """Return the provenance of the figures, with the name of a GPU."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    peers = [name for name in ("peft", "setfit", "litserve") if importlib.util.find_spec(name)]
    return provenance(command, *peers, accelerator=accelerator)


def measure(
    device: torch.device, names: Sequence[str] | None, only: Sequence[str] | None, minilm: Path | None, rounds: int
) -> Iterator[Figure]:
    """Yield all figures in the order of the table. Large backbones are measured only on a GPU."""
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
            from benchmarks.engines.whole_service import service

            rows.append(service)
        for row in rows:
            if only and row.__name__ not in only:
                continue
            began = time.perf_counter()
            figures = row(measured, rounds)
            for figure in (figures,) if isinstance(figures, Figure) else figures:
                print(f"{figure.what}: {figure.measured} (goal: {figure.goal})", file=sys.stderr, flush=True)
                yield figure
            print(f"{name}, {row.__name__}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
