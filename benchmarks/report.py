"""docs/benchmarks.md: each benchmark program writes one section."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT

REPORT = ROOT / "docs" / "benchmarks.md"
TITLE = "# Benchmarks"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table, with a description of how it was measured."""

    what: str
    measured: str
    goal: str
    met: bool
    how: str


def section(title: str, origin: str, figures: Sequence[Figure]) -> str:
    """Return a section in Markdown: heading, provenance, table, and how each figure was measured."""
    table = ["| what | measured | goal | met |", "| --- | --- | --- | --- |"]
    table += [f"| {f.what} | {f.measured} | {f.goal} | {'yes' if f.met else '**no**'} |" for f in figures]
    how = [f"- **{f.what}**: {f.how}" for f in figures]
    return "\n".join([f"## {title}", "", origin, "", *table, "", "How each was measured:", "", *how, ""])


def write(text: str, report: Path = REPORT) -> None:
    """Replace the section with the same heading, or append the section to the report."""
    written = report.read_text(encoding="utf-8") if report.is_file() else f"{TITLE}\n"
    head, *sections = re.split(r"^(?=## )", written, flags=re.MULTILINE)
    heading = text.partition("\n")[0]
    same = [i for i, old in enumerate(sections) if old.partition("\n")[0] == heading]
    if same:
        sections[same[0]] = text
    else:
        sections.append(text)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n\n".join(part.strip() for part in (head, *sections)) + "\n", encoding="utf-8")
