"""The provenance of figures: commit, date, machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def processor_times(stat: Path = Path("/proc/stat")) -> tuple[int, int]:
    """Return the total time of all processors since boot and its steal time, in ticks."""
    if not stat.is_file():
        return 0, 0
    user, nice, system, idle, io, interrupts, soft_interrupts, stolen = map(
        int, stat.read_text().partition("\n")[0].split()[1:9]
    )
    return user + nice + system + idle + io + interrupts + soft_interrupts + stolen, stolen


_AT_START = processor_times()


def steal_note(now: tuple[int, int], before: tuple[int, int] = _AT_START) -> str:
    """Return a sentence on the steal time since the program started, or nothing below 1 %."""
    whole, stolen = now[0] - before[0], now[1] - before[1]
    if not whole or stolen < 0.01 * whole:
        return ""
    return f" On this virtual machine, {100 * stolen / whole:.0f} % of the processor time was steal time."


def provenance(command: str, *peers: str, accelerator: str | None = None) -> str:
    """Return a Markdown paragraph with command, commit, date, processor, versions and steal time.

    Args:
        peers: packages that ours is compared with.
    """
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", *peers))
    device = "" if accelerator is None else f"{accelerator}, "
    return (
        f"Written by `{command}` at commit `{commit()}` on {datetime.now(UTC):%Y-%m-%d}; "
        f"{device}{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}."
        f"{steal_note(processor_times())}"
    )


def commit() -> str:
    """Return the short hash of HEAD, with `-dirty` if files outside docs/, where the reports are, differ from it.

    `IPT_COMMIT` overrides it, for a copy without its repository.
    """
    head = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs")
    return os.environ.get("IPT_COMMIT") or (f"{head}-dirty" if changed else head) or "unknown"


def _git(*arguments: str) -> str:
    """Return the output of git, empty without a repository."""
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
