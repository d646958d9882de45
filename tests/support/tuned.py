"""A fixture of both conftests; the core's tests run without the service's (`make test-core`)."""

import pytest


@pytest.fixture
def keep_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every tuned vector, even if its start was better, for tests that compare tuned vectors."""
    monkeypatch.setattr("ipt.tuning.tuning_loop.KEEP_NATS", -1e9)
