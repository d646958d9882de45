"""McNemar's exact test."""

import pytest

import ipt
from ipt.evaluation.comparison import mcnemar_p_value


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (12, 3, 0.03515625), (3, 12, 0.03515625), (0, 10, 2 / 1024)],
)
def test_the_p_value_is_that_of_the_two_sided_binomial_test(only_first: int, only_second: int, p_value: float) -> None:
    assert mcnemar_p_value(only_first, only_second) == pytest.approx(p_value, rel=1e-12)


def test_scipy_computes_the_same_p_values() -> None:
    binomtest = pytest.importorskip("scipy.stats", reason="SciPy is not installed").binomtest
    for only_first, only_second in [(1, 7), (40, 61), (300, 290), (2000, 1800), (0, 3000)]:
        expected = binomtest(only_first, only_first + only_second).pvalue
        assert mcnemar_p_value(only_first, only_second) == pytest.approx(expected, rel=1e-6)


def test_only_rows_that_differ_count() -> None:
    comparison = ipt.compare([True, True, False, False, True], [True, False, True, False, False])
    assert (comparison.rows, comparison.only_first_right, comparison.only_second_right) == (5, 2, 1)
    assert comparison.p_value == mcnemar_p_value(2, 1)
