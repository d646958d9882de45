"""A fixture of two conftests: the core's tests run without the other (`make test-core`)."""

import pytest


@pytest.fixture
def keep_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every tuned vector, whatever its start was worth: for tests that compare what tuning did."""
    monkeypatch.setattr("ipt.tuning.program.KEEP_NATS", -1e9)
