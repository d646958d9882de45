"""Measurements as a Markdown page."""

from ipt.evaluation.measurements import Measurement
from ipt.evaluation.report import render


def test_a_report_has_means_standard_deviations_and_e_rel() -> None:
    def of(name: str, method: str, seed: int, score: float) -> Measurement:
        return Measurement(name, "f", seed, method, score, 1.0, {})

    measured = [
        *(of("a", "IST", 0, 0.6), of("a", "IST", 1, 0.8), of("a", "PT", 0, 0.5), of("a", "PT", 1, 0.5)),
        *(of("b", "IST", 0, 0.3), of("b", "PT", 0, 0.6), of("a", "class names", 0, 0.25)),
    ]
    lines = render(measured, ("class names", "PT", "IST", "random"), "About.").splitlines()
    assert "| task | class names | PT | IST | E_rel |" in lines
    assert "| a | 25.0 | 50.0 ± 0.0 | 70.0 ± 14.1 | 1.400 |" in lines
    assert "| b | – | 60.0 | 30.0 | 0.500 |" in lines
    assert "| **mean** | 25.0 | 55.0 ± 0.0 | 50.0 ± 14.1 | 0.950 |" in lines
