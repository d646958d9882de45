from pathlib import Path

from benchmarks.machine import processor_times, taken


def test_time_that_a_hypervisor_took_is_said(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  600 10 40 200 20 5 25 100 30 0\ncpu0 300 5 20 100 10 2 13 50 15 0\n")
    assert processor_times(stat) == (1000, 100)
    assert "30 % of its time" in taken((2000, 400), before=(1000, 100))


def test_a_quiet_machine_is_not_worth_a_word(tmp_path: Path) -> None:
    assert processor_times(tmp_path / "missing") == (0, 0)
    assert taken((0, 0), before=(0, 0)) == ""
    assert taken((2000, 109), before=(1000, 100)) == ""
