"""Draws of few-shot examples."""

from ipt.data.sampling import sample_per_label
from tests.support.datasets import sentiment


def test_sampling_is_per_label_and_by_seed() -> None:
    rows = sentiment(4)
    first, again, other = (sample_per_label(rows, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(e.output for e in first) == ["negative"] * 5 + ["positive"] * 5
