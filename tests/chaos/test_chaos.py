"""Nothing lost, nothing twice: a short run of what `make chaos` does for long."""

from pathlib import Path

import pytest

from tests.chaos.run import run

# Each process needs seconds to start, and many more on a machine that has other things to do.
pytestmark = pytest.mark.timeout(900)


def test_whatever_is_killed_no_adaptation_is_lost_or_done_twice(
    data_dir: Path, tiny_backbone_dir: Path, tiny_subspace_dir: Path
) -> None:
    outcome = run(
        data_dir,
        tiny_backbone_dir,
        tiny_subspace_dir,
        adaptations=12,
        seed=0,
        disturbances=11,
        say=print,
    )
    assert len(outcome.disturbances) >= 7, "too few were disturbed"
    assert (outcome.lost, outcome.doubled, outcome.wrong) == ([], [], [])
    assert sum(outcome.taken_up) > outcome.adaptations, "no adaptation was disturbed"
