"""E_rel over measurements."""

import pytest

from ipt.evaluation.measurements import Measurement, e_rel


def test_e_rel_is_the_ratio_of_means_over_common_draws() -> None:
    def of(name: str, method: str, seed: int, score: float) -> Measurement:
        return Measurement(name, "f", seed, method, score, 1.0, {})

    measured = [
        *(of("a", "IST", 0, 0.6), of("a", "IST", 1, 0.8), of("a", "IST", 2, 0.1)),
        *(of("a", "PT", 0, 0.5), of("a", "PT", 1, 0.5)),
        *(of("b", "IST", 0, 0.5), of("b", "PT", 0, 0.0), of("c", "IST", 0, 0.5)),
    ]
    assert e_rel(measured) == {"a": pytest.approx(1.4)}
