"""Keep tuned vectors even if their starts were better, for tests that compare tuned vectors.

Both conftests have the fixture, as the core's tests run without the service's (`make test-core`).
"""

import math
from collections.abc import Sequence

import pytest

from ipt.tuning.checkpoint import TuningState
from ipt.tuning.tuning_loop import TuningLoop

_record = TuningLoop.record_validation


def never_keep_the_start(self: TuningLoop, state: TuningState, losses: Sequence[float]) -> None:
    """Replace `TuningLoop.record_validation`: the loss before the first step counts as infinite."""
    _record(self, state, [math.inf] * len(losses) if state.lanes.step == 0 else losses)


def always_keep_the_start(self: TuningLoop, state: TuningState, losses: Sequence[float]) -> None:
    """Replace `TuningLoop.record_validation`: every loss after the first step counts as infinite."""
    _record(self, state, losses if state.lanes.step == 0 else [math.inf] * len(losses))


@pytest.fixture
def keep_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TuningLoop, "record_validation", never_keep_the_start)
