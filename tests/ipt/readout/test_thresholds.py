"""Thresholds of labels: chosen by F1 if there are rows to choose by, by the probabilities otherwise."""

import torch

from ipt.readout.thresholds import choose_thresholds, cross_fitted_thresholds


def test_with_many_rows_the_threshold_has_the_highest_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(400, 1, generator=generator) < 0.2
    logits = 2 * positive - 3.0 + torch.randn(400, 1, generator=generator).double()
    threshold = choose_thresholds(logits, positive)

    def f1(least: float) -> float:
        answered = logits >= least
        return float(2 * (answered & positive).sum() / (answered.sum() + positive.sum()))

    best = max(f1(least) for least in torch.linspace(-6, 2, 200).tolist())
    assert f1(threshold.item()) > best - 0.02
    assert f1(threshold.item()) > f1(0.0) + 0.1


def test_without_a_row_of_the_label_the_probabilities_decide() -> None:
    logits = torch.tensor([[3.0], [2.0], [-4.0], [-5.0]]).double()
    nothing = torch.zeros(4, 1, dtype=torch.bool)
    assert -4.0 < choose_thresholds(logits, nothing).item() < 2.0
    assert choose_thresholds(logits[:0], nothing[:0]).tolist() == [0.0]


def test_the_thresholds_of_a_row_do_not_depend_on_its_own_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(30, 2, generator=generator) < 0.4
    logits = torch.randn(30, 2, generator=generator).double() + labels
    before = cross_fitted_thresholds(logits, labels, range(30))
    changed = logits.clone()
    changed[4] = -changed[4]
    assert torch.equal(cross_fitted_thresholds(changed, labels, range(30))[4], before[4])
    assert not torch.equal(cross_fitted_thresholds(changed, labels, range(30)), before)
