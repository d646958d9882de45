"""Kill, stop and freeze every part of a real service while it adapts, and write docs/reliability.md.

    python -m tests.chaos [--adaptations 300] [--seed 0]

Starts PostgreSQL, Redis and the service in a temporary folder.
"""

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import ipt
from benchmarks.machine import ROOT, provenance
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.chaos.client import STEPS
from tests.chaos.processes import TENANTS
from tests.chaos.recovery import SECONDS_AFTER_REAPING
from tests.chaos.result import Result
from tests.chaos.run import LEASE_SECONDS, run
from tests.support.tiny import build_tiny_encoder

REPORT = ROOT / "docs" / "reliability.md"
ADAPTATIONS = 300
# With more faults, a slow machine would spend most of its time on recovery.
ADAPTATIONS_PER_FAULT = 3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--adaptations", type=int, default=ADAPTATIONS)
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults and their times")
    options = parser.parse_args(arguments)
    # On SIGTERM, exit through the context managers, which kill every process of the service.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command = f"make chaos CHAOS_ARGS='--adaptations {options.adaptations} --seed {options.seed}'"
    # When started by root, PostgreSQL runs as another user, which needs access to the folder.
    with tempfile.TemporaryDirectory(prefix="ipt-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        backbone, subspace = _tiny(folder)
        service = folder / "service"
        service.mkdir()
        folder.chmod(0o755)
        result = run(
            service,
            backbone,
            subspace,
            adaptations=options.adaptations,
            seed=options.seed,
            faults=max(1, options.adaptations // ADAPTATIONS_PER_FAULT),
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
    report = render(result, options.seed, provenance(command))
    REPORT.write_text(report, encoding="utf-8")
    print(report)
    for line in (*result.lost, *result.duplicated, *result.errors):
        print(f"error: {line}", file=sys.stderr)
    return 1 if result.lost or result.duplicated or result.errors else 0


def _tiny(folder: Path) -> tuple[Path, Path]:
    """Write the tiny backbone and an untrained subspace for it; the quality of the results does not matter here."""
    backbone = build_tiny_encoder(folder / "backbone")
    torch.manual_seed(0)
    decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    ipt.save_subspace(folder / "subspace", decoder, ipt.load_backbone(str(backbone), device="cpu"))
    return backbone, folder / "subspace"


def render(result: Result, seed: int, origin: str) -> str:
    """Return the page as Markdown."""
    stop_seconds = "none"
    if result.stop_seconds:
        slowest, name = max(result.stop_seconds)
        stop_seconds = f"{statistics.median(seconds for seconds, _ in result.stop_seconds):.1f}, {slowest:.1f} ({name})"
    recovery = "none"
    if result.recovery_seconds:
        slowest, fault = max(result.recovery_seconds)
        median = statistics.median(seconds for seconds, _ in result.recovery_seconds)
        recovery = f"{median:.1f}, {slowest:.1f} ({fault})"
    rows = [
        ("adaptations accepted (202)", f"{result.adaptations}"),
        ("**lost**", f"**{len(result.lost)}**"),
        ("**duplicated**", f"**{len(result.duplicated)}**"),
        ("other errors", f"{len(result.errors)}"),
        ("faults", f"{sum(result.faults.values())}"),
        ("attempts per adaptation, lost workers included, mean and maximum", _mean_and_maximum(result.attempts)),
        ("claims per adaptation, mean and maximum", _mean_and_maximum(result.claims)),
        (
            f"seconds from SIGTERM to the end of a process, median and maximum of {len(result.stop_seconds)}",
            stop_seconds,
        ),
        (
            f"seconds until {len(result.recovery_seconds)} adaptations ran again after a fault, median and maximum",
            recovery,
        ),
        ("most connections to PostgreSQL", f"{result.most_connections}"),
        ("duration", f"{result.seconds:.0f} s"),
        ("seed", f"{seed}"),
    ]
    table = ["| measure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    kinds = ["| fault | times |", "| --- | --- |"]
    kinds += [f"| {name} | {count} |" for name, count in sorted(result.faults.items())]
    return "\n".join(["# Reliability", "", _CLAIM, "", origin, "", *table, "", *kinds, "", _HOW, ""])


def _mean_and_maximum(numbers: list[int]) -> str:
    return f"{statistics.mean(numbers):.2f}, {max(numbers)}" if numbers else "none"


_CLAIM = """\
Every accepted adaptation (202) finishes exactly once, with the same result as in an undisturbed run: no adaptation is
lost or run twice. A lost worker counts against no adaptation; only one that loses five workers in a row without getting
any further fails. `make chaos` tests this with real processes, and `make test` runs a short version. `make simulate`
tests a million histories of the queue in which a seed decides between every two statements what runs next, fails or is
lost ([decision 55](decisions/0055-simulation-of-the-queue.md)); `make test` runs 4,000 of them. It also puts a proxy
between PostgreSQL and an API process or a worker, which loses a COMMIT or its reply, delays every reply, ends every
connection, or sends nothing back."""

_HOW = f"""\
PostgreSQL, Redis, two API processes, one polling worker and two Celery workers run as real processes with a tiny
encoder ({STEPS} steps, a lease of {LEASE_SECONDS:.0f} s, the default limits of errors and lost workers). A client sends
the adaptations of {len(TENANTS)} tenants in turn, each with an idempotency key, and repeats a request until one of the
two API processes accepts it. Meanwhile faults are injected in a random order given by the seed; each kind occurs once
before any kind is repeated. Processes that end are restarted.

- **lost**: accepted, but not in the database, or not succeeded with one final event and one task version.
- **duplicated**: two adaptations, tasks, final events or task versions for one request.
- **other errors**: an adaptation that waits after the loss of its worker for longer than the lease, the reaper's
  interval, {SECONDS_AFTER_REAPING:.0f} s and the start of a process; more connections to PostgreSQL than the pools
  hold, plus 10 %; a response other than 202 or 503; gaps in the numbers of events; attempts that disagree with the
  events; a lease or checkpoint that outlives its adaptation; a process that outlives its parent; a task vector that
  differs from that of an undisturbed run (relative tolerance 1e-4)."""


if __name__ == "__main__":
    sys.exit(main())
