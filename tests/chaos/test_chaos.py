"""A short chaos run: no adaptation is lost or run twice. `make chaos` does the same at length."""

from pathlib import Path

import pytest

from tests.chaos.run import run

# Each process needs seconds to start, and much longer on a busy machine.
pytestmark = pytest.mark.timeout(900)


def test_no_fault_loses_or_duplicates_an_adaptation(
    data_dir: Path, tiny_backbone_dir: Path, tiny_subspace_dir: Path
) -> None:
    result = run(data_dir, tiny_backbone_dir, tiny_subspace_dir, adaptations=12, seed=0, faults=11, log=print)
    assert len(result.faults) >= 7, "too few kinds of faults were injected"
    assert (result.lost, result.duplicated, result.errors) == ([], [], [])
    assert sum(result.claims) > result.adaptations, "no fault hit an adaptation"
