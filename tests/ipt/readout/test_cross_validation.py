"""Cross-validated log-likelihoods: which prompt they prefer, and what the folds leave out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ipt.readout.cross_validation import CrossValidation, assign_folds
from ipt.readout.embeddings import Embeddings
from tests.support.clusters import C, H, clusters


def test_folds_spread_every_class_evenly_and_keep_the_only_example_of_a_class() -> None:
    folds = assign_folds(torch.tensor([0] * 7 + [1] * 5 + [2]), 5)
    assert folds[-1] == -1
    for rows in (folds[:7], folds[7:12]):
        counts = torch.bincount(rows, minlength=5)
        assert counts.max() - counts.min() <= 1
        assert len(counts) == 5


def test_folds_leave_out_a_group_as_a_whole() -> None:
    # Class 0: six groups of six rows. Class 1: one group. Class 2: two groups, one of which it shares with class 0.
    classes = torch.tensor([0] * 36 + [1] * 4 + [2, 0, 2])
    groups = [row // 6 for row in range(36)] + [6] * 4 + [7, 7, 8]
    folds = assign_folds(classes, 3, groups).tolist()
    fold_of = dict(zip(groups, folds, strict=True))
    assert [fold_of[group] for group in groups] == folds
    assert fold_of[6] == -1, "the only group of class 1"
    assert sorted(fold_of[group] for group in range(6)) == [0, 0, 1, 1, 2, 2]
    assert fold_of[7] != fold_of[8], "class 2 is never without examples"


def test_cross_validation_prefers_the_prompt_that_separates_the_classes() -> None:
    frozen, classes = clusters(spread=0.4, seed=1)
    likelihood = CrossValidation(frozen, classes, C, 5)
    clear, blurred = (Embeddings(clusters(spread, seed=2)[0], frozen) for spread in (0.1, 2.0))
    assert likelihood.prompted(clear) > likelihood.baseline > likelihood.prompted(blurred)
    # The mean example of each class is a good name for it, and a bad name for the next class.
    means = torch.stack([clear.features()[classes == c].mean(dim=0) for c in range(C)])
    good = Embeddings(*F.normalize(means.unflatten(1, (2, H)), dim=2).unbind(1))
    bad = Embeddings(good.prompted.roll(1, 0), good.frozen.roll(1, 0))
    assert likelihood.prompted(clear, good) > likelihood.prompted(clear) > likelihood.prompted(clear, bad)


def test_cross_validation_of_large_fits_is_close_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, classes = clusters(spread=0.6, seed=1)
    embeddings = Embeddings(clusters(spread=0.3, seed=2)[0], frozen)
    for names in (None, embeddings.rows(slice(C))):
        exact = CrossValidation(frozen, classes, C, 5).prompted(embeddings, names)
        with monkeypatch.context() as patched:
            patched.setattr("ipt.readout.linear_classifier.LARGE_FIT", 0)
            large = CrossValidation(frozen, classes, C, 5).prompted(embeddings, names)
        assert large == pytest.approx(exact, abs=0.05)


def test_left_out_examples_do_not_influence_the_fit() -> None:
    """Random labels can be memorized, but not predicted."""
    frozen, classes = clusters(spread=0.1)
    random = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]
    likelihood = CrossValidation(frozen, random, C, 5)
    assert max(likelihood.baseline, likelihood.prompted(Embeddings(frozen, frozen))) < -len(classes) * np.log(C)


def test_the_log_likelihood_is_zero_if_no_class_has_two_examples() -> None:
    rows = clusters(spread=0.1)[0][:C]
    likelihood = CrossValidation(rows, torch.arange(C), C, 5)
    assert likelihood.prompted(Embeddings(rows, rows)) == likelihood.baseline == 0.0


def test_each_label_of_label_sets_is_spread_over_the_folds() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(90, 5, generator=generator) < torch.tensor([0.5, 0.3, 0.2, 0.1, 0.1])
    labels[:, 4] = False
    labels[7, 4] = True  # the only row of its label
    groups = [row - row % 2 for row in range(90)]
    folds = assign_folds(labels, 3, groups)
    assert folds[7] == folds[6] == -1, "the only text of a label is never left out"
    assert (folds[0::2] == folds[1::2]).all(), "a group stays together"
    without = ~labels.any(dim=1)
    for rows in (*labels[:, :4].T, without):
        counts = [int((rows & (folds == fold)).sum()) for fold in range(3)]
        assert max(counts) - min(counts) <= 3, counts
