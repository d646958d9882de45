"""Where task vectors lie, told without plots."""

import numpy as np

from ipt.evaluation.study.geometry import by_family, plane, similarities, within_and_between


def test_a_plane_keeps_distances_that_lie_in_it() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((7, 2)) * [5.0, 1.0]
    turned = np.linalg.qr(rng.standard_normal((9, 9)))[0][:2]
    places, shares = plane(flat @ turned + 3.0)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.testing.assert_allclose(distances, np.linalg.norm(flat[:, None] - flat[None], axis=-1))
    np.testing.assert_allclose(shares.sum(), 1.0)
    assert shares[0] > shares[1]


def test_tasks_that_all_lie_at_one_place_do_no_harm() -> None:
    places, shares = plane(np.ones((3, 1)))
    assert not places.any()
    assert not shares.any()


def test_similarities_are_cosines_and_those_of_families_are_told_apart() -> None:
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    similar = similarities(vectors)
    np.testing.assert_array_equal(similar[0], [1.0, 1.0, 0.0, 0.0])
    assert within_and_between(similar, ["a", "a", "b", "b"]) == (0.5, 0.0)
    assert within_and_between(similar[:2, :2], ["a", "a"]) == (1.0, None)


def test_families_stand_together_the_largest_first() -> None:
    assert by_family(["b", "a", "c", "a", "c", "c"]) == [2, 4, 5, 1, 3, 0]
