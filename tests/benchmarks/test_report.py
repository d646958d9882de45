from pathlib import Path

from benchmarks.report import Figure, section, write


def figure(measured: str) -> Figure:
    return Figure("start", measured, "≤ 10 s", met=True, how="from an empty folder")


def test_a_section_replaces_the_one_with_the_same_heading_and_keeps_the_others(tmp_path: Path) -> None:
    report = tmp_path / "docs" / "benchmarks.md"
    for title, measured in [("The service", "1 s"), ("Scale", "2 s"), ("The service", "3 s")]:
        write(section(title, "Written by `a command`.", [figure(measured)]), report)
    text = report.read_text()
    assert text.startswith("# Benchmarks\n\n## The service\n\nWritten by")
    assert "| start | 3 s | ≤ 10 s | yes |" in text
    assert "| start | 2 s | ≤ 10 s | yes |" in text
    assert "1 s |" not in text
    assert text.count("## ") == 2


def test_a_missed_goal_is_printed_in_bold() -> None:
    missed = section("Scale", "origin", [Figure("start", "11 s", "≤ 10 s", met=False, how="")])
    assert "| start | 11 s | ≤ 10 s | **no** |" in missed
