"""Where and on what a figure was measured: said beside every table."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def processor_times(stat: Path = Path("/proc/stat")) -> tuple[int, int]:
    """Of all processors since they were started, in ticks: all time, and what a hypervisor gave to others of it."""
    if not stat.is_file():
        return 0, 0
    user, nice, system, idle, io, interrupts, soft_interrupts, stolen = map(
        int, stat.read_text().partition("\n")[0].split()[1:9]
    )
    return user + nice + system + idle + io + interrupts + soft_interrupts + stolen, stolen


_AT_START = processor_times()


def taken(now: tuple[int, int], before: tuple[int, int] = _AT_START) -> str:
    """A sentence about what a hypervisor took since the program started, where it is worth one."""
    whole, stolen = now[0] - before[0], now[1] - before[1]
    if not whole or stolen < 0.01 * whole:
        return ""
    return f" The machine is a virtual one, and {100 * stolen / whole:.0f} % of its time went to others meanwhile."


def provenance(command: str, *peers: str, accelerator: str | None = None) -> str:
    """One Markdown paragraph: command, commit, date, processor, versions, and how quiet the machine was until now.

    `peers` are packages compared with.
    """
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", *peers))
    device = "" if accelerator is None else f"{accelerator}, "
    return (
        f"Written by `{command}` at commit `{commit()}` on {datetime.now(UTC):%Y-%m-%d}; "
        f"{device}{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}."
        f"{taken(processor_times())}"
    )


def commit() -> str:
    """The short hash of HEAD, with a mark when the tree differs from it; in docs/ it does once a report is written.

    Where a copy is measured, without its repository or beside another, what `IPT_COMMIT` says.
    """
    head = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs")
    return os.environ.get("IPT_COMMIT") or (f"{head}-dirty" if changed else head) or "unknown"


def _git(*arguments: str) -> str:
    """What git says, nothing where there is no repository."""
    said = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip()


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
