from pathlib import Path

from benchmarks.machine import processor_times, steal_note


def test_steal_time_is_reported(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  600 10 40 200 20 5 25 100 30 0\ncpu0 300 5 20 100 10 2 13 50 15 0\n")
    assert processor_times(stat) == (1000, 100)
    assert "30 % of the processor time" in steal_note((2000, 400), before=(1000, 100))


def test_little_steal_time_is_not_reported(tmp_path: Path) -> None:
    assert processor_times(tmp_path / "missing") == (0, 0)
    assert steal_note((0, 0), before=(0, 0)) == ""
    assert steal_note((2000, 109), before=(1000, 100)) == ""
