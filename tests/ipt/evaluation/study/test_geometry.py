"""The geometry of task vectors."""

import numpy as np

from ipt.evaluation.study.geometry import by_family, cosine_similarities, principal_components, within_and_between


def test_two_components_keep_the_distances_of_vectors_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((7, 2)) * [5.0, 1.0]
    turned = np.linalg.qr(rng.standard_normal((9, 9)))[0][:2]
    projected, shares = principal_components(flat @ turned + 3.0)
    distances = np.linalg.norm(projected[:, None] - projected[None], axis=-1)
    np.testing.assert_allclose(distances, np.linalg.norm(flat[:, None] - flat[None], axis=-1))
    np.testing.assert_allclose(shares.sum(), 1.0)
    assert shares[0] > shares[1]


def test_equal_vectors_have_zero_components_and_no_variance() -> None:
    projected, shares = principal_components(np.ones((3, 1)))
    assert not projected.any()
    assert not shares.any()


def test_cosines_are_averaged_within_and_between_families() -> None:
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    cosines = cosine_similarities(vectors)
    np.testing.assert_array_equal(cosines[0], [1.0, 1.0, 0.0, 0.0])
    assert within_and_between(cosines, ["a", "a", "b", "b"]) == (0.5, 0.0)
    assert within_and_between(cosines[:2, :2], ["a", "a"]) == (1.0, None)


def test_tasks_are_grouped_by_family_the_largest_first() -> None:
    assert by_family(["b", "a", "c", "a", "c", "c"]) == [2, 4, 5, 1, 3, 0]
