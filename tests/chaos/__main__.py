"""Kill, stop and freeze every part of a real service while it adapts, for long, and write docs/reliability.md.

    python -m tests.chaos [--adaptations 300] [--seed 0]

Needs nothing that runs already: PostgreSQL, Redis and the service are started in a temporary folder.
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
from app.settings import Settings
from benchmarks.machine import ROOT, provenance
from ipt.subspace.modules import SubspaceDecoder
from tests.chaos.processes import TENANTS
from tests.chaos.run import LEASE_SECONDS, MAX_ATTEMPTS, STEPS, Outcome, run
from tests.support.tiny import build_tiny_encoder

REPORT = ROOT / "docs" / "reliability.md"
ADAPTATIONS = 300
MOST_ATTEMPTS = Settings.model_fields["max_attempts"].default
# As many disturbances as adaptations would be more than a slow machine recovers from in a reasonable time.
ADAPTATIONS_PER_DISTURBANCE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--adaptations", type=int, default=ADAPTATIONS)
    parser.add_argument("--seed", type=int, default=0, help="of what is disturbed, and when")
    asked = parser.parse_args(arguments)
    # Stopped from outside, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command = f"make chaos CHAOS_ARGS='--adaptations {asked.adaptations} --seed {asked.seed}'"
    # The server is another user when root starts it, and must find its way in.
    with tempfile.TemporaryDirectory(prefix="ipt-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        backbone, subspace = _tiny(folder)
        service = folder / "service"
        service.mkdir()
        folder.chmod(0o755)
        outcome = run(
            service,
            backbone,
            subspace,
            adaptations=asked.adaptations,
            seed=asked.seed,
            disturbances=max(1, asked.adaptations // ADAPTATIONS_PER_DISTURBANCE),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    report = render(outcome, asked.seed, provenance(command))
    REPORT.write_text(report, encoding="utf-8")
    print(report)
    for line in (*outcome.lost, *outcome.doubled, *outcome.wrong):
        print(f"error: {line}", file=sys.stderr)
    return 1 if outcome.lost or outcome.doubled or outcome.wrong else 0


def _tiny(folder: Path) -> tuple[Path, Path]:
    """The tiny backbone and an untrained subspace of it: what counts here is the work's way, not what it is worth."""
    backbone = build_tiny_encoder(folder / "backbone")
    torch.manual_seed(0)
    decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
    ipt.save_subspace(folder / "subspace", decoder, ipt.load_backbone(str(backbone), device="cpu"))
    return backbone, folder / "subspace"


def render(outcome: Outcome, seed: int, origin: str) -> str:
    """The Markdown page."""
    ended_in = "none"
    if outcome.ended_in:
        most, name = max(outcome.ended_in)
        ended_in = f"{statistics.median(seconds for seconds, _ in outcome.ended_in):.1f}, {most:.1f} ({name})"
    rows = [
        ("adaptations accepted (202)", f"{outcome.adaptations}"),
        ("**lost**", f"**{len(outcome.lost)}**"),
        ("**doubled**", f"**{len(outcome.doubled)}**"),
        ("other errors", f"{len(outcome.wrong)}"),
        ("disturbances", f"{sum(outcome.disturbances.values())}"),
        ("attempts an adaptation needed, mean and most", _mean_and_most(outcome.attempts)),
        (
            f"more attempts than the default of {MOST_ATTEMPTS}, with which it would have failed",
            f"{sum(attempts > MOST_ATTEMPTS for attempts in outcome.attempts)}",
        ),
        ("times it was taken up, handed back ones included, mean and most", _mean_and_most(outcome.taken_up)),
        (f"seconds from SIGTERM to the end of a process, median and most of {len(outcome.ended_in)}", ended_in),
        ("time from the first to the last", f"{outcome.seconds:.0f} s"),
        ("seed", f"{seed}"),
    ]
    table = ["| what | figure |", "| --- | --- |", *(f"| {what} | {figure} |" for what, figure in rows)]
    kinds = ["| disturbance | times |", "| --- | --- |"]
    kinds += [f"| {name} | {count} |" for name, count in sorted(outcome.disturbances.items())]
    return "\n".join(["# Reliability", "", _CLAIM, "", origin, "", *table, "", *kinds, "", _HOW, ""])


def _mean_and_most(numbers: list[int]) -> str:
    return f"{statistics.mean(numbers):.2f}, {max(numbers)}" if numbers else "none"


_CLAIM = """\
An adaptation that was accepted (202) ends exactly once, with the very result that it would have had on a quiet day:
nothing is lost, nothing is done twice. `make chaos` tries that, and `make test` does so in short."""

_HOW = f"""\
How it was measured: PostgreSQL, Redis, two API processes, one polling worker and two Celery workers run as real
processes on a tiny encoder ({STEPS} steps, a lease of {LEASE_SECONDS:.0f} s, {MAX_ATTEMPTS} attempts, so that none may
fail). A caller sends the adaptations, of {len(TENANTS)} tenants in turn, each under an idempotency key and again until
one of the two API processes has taken it. Meanwhile a seed decides what is disturbed, each kind once before any comes
again, and what has ended is started again.

- **lost**: accepted and not in the database, or not ended in success with one final event and one task version.
- **doubled**: two adaptations, tasks, endings or task versions for one request.
- **other errors**: an answer other than 202 or 503; events whose numbers have gaps; attempts that do not agree with the
  events; a lease or checkpoint that outlives its adaptation; a process that outlives the one that began it; a task
  vector that differs from that of an undisturbed run (relative tolerance 1e-4)."""


if __name__ == "__main__":
    sys.exit(main())
