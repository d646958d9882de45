"""The benchmark of `in_scope`: what it asks, and the measure."""

import numpy as np
import pytest

import ipt
from benchmarks.out_of_scope import ROWS, auroc, texts_of_other_domains
from ipt.data.task_dataset import TaskDataset


def task(name: str, family: str, *labels: str) -> TaskDataset:
    rows = tuple(ipt.Example(f"{name} {label} {number}", label) for label in labels for number in range(ROWS))
    return TaskDataset(name, family, rows[:2], rows[2:])


def test_the_auroc_counts_ordered_pairs_and_half_of_the_ties() -> None:
    assert auroc(np.array([0.9, 0.5]), np.array([0.1, 0.5, 0.7])) == pytest.approx((3 + 1.5) / 6)


def test_texts_of_other_domains_have_none_of_the_task_s_labels() -> None:
    asked = task("asked", "clinc", "a", "b")
    others = [
        task("near", "clinc", "c"), task("same", "clinc", "b", "d"),
        task("bank", "banking", "e"), task("far", "reviews", "a"),
    ]  # fmt: skip
    texts = texts_of_other_domains(asked, [asked, *others])
    assert [text.split()[0] for text in texts] == ["near"] * (ROWS // 2) + ["far"] * (ROWS // 2)
