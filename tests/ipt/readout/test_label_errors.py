"""Labels that are probably wrong are found, and only these."""

import numpy as np
import pytest

from ipt.readout.label_errors import near_duplicates_across_labels, suspect_label_sets, suspect_labels


def logits_of(scores: list[list[float]]) -> np.ndarray:
    return np.log(np.array(scores, dtype=np.float32))


def test_a_swapped_label_is_a_suspect_and_an_uncertain_one_is_not() -> None:
    scores = [[0.9, 0.1], [0.8, 0.2], [0.15, 0.85], [0.1, 0.9], [0.6, 0.4], [0.55, 0.45]]
    [suspect] = suspect_labels(logits_of(scores), [0, 0, 0, 1, 1, 1])
    assert (suspect.row, suspect.likely) == (2, 1)
    assert suspect.likely_probability == pytest.approx(0.85)
    assert suspect.given_probability == pytest.approx(0.15)


def test_the_thresholds_are_those_of_the_confident_joint() -> None:
    """They are 0.5 for class 0 and 0.69 for class 1: row 1 reaches that of class 1, row 3 only that of 0."""
    scores = [[0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.52, 0.48]]
    assert [suspect.row for suspect in suspect_labels(logits_of(scores), [0, 0, 1, 1])] == [1, 3]
    scores[3] = [0.49, 0.51]
    assert [suspect.row for suspect in suspect_labels(logits_of(scores), [0, 0, 1, 1])] == [1]


def test_planted_errors_come_first() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    logits = (5 * np.eye(4)[truth] + rng.normal(size=(200, 4))).astype(np.float32)
    given = truth.copy()
    wrong = rng.choice(200, 12, replace=False)
    given[wrong] = (truth[wrong] + 1) % 4
    suspects = suspect_labels(logits, given.tolist())
    assert {suspect.row for suspect in suspects[:10]} <= set(wrong.tolist())
    assert len(suspects) < 16
    assert suspect_labels(logits[:0], []) == []


def test_near_duplicates_across_labels_are_paired_whatever_all_texts_have_in_common() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(40, 16)).astype(np.float32) + 50
    embeddings[7] = embeddings[3] + 0.01
    embeddings[9] = embeddings[4] + 0.01 * rng.normal(size=16)
    classes = [row % 2 for row in range(40)]
    assert near_duplicates_across_labels(embeddings, classes) == [(4, 9)], "3 and 7 have the same label"


def test_labels_that_an_example_lacks_or_has_too_many_are_suspects() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.95], [0.2, 0.9], [0.9, 0.1], [0.15, 0.9]])
    sets = scores > 0.5
    sets[4, 0], sets[5, 1] = False, False
    sets[0, 1] = True
    suspects = suspect_label_sets(np.log(scores / (1 - scores)).astype(np.float32), sets)
    assert {(each.row, each.label, each.belongs) for each in suspects} == {(4, 0, True), (5, 1, True), (0, 1, False)}
    assert [each.probability for each in suspects] == pytest.approx([0.9, 0.9, 0.9])
