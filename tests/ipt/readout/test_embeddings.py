"""The features of a row's two embeddings."""

import torch

from ipt.readout.embeddings import Embeddings
from tests.support.clusters import H, clusters


def test_features_are_unit_vectors_of_both_embeddings() -> None:
    rows, _ = clusters(spread=0.2)
    other, _ = clusters(spread=0.2, seed=1)
    features = Embeddings(rows, other).features()
    assert features.shape == (len(rows), 2 * H)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(rows)))
    assert not torch.equal(features, Embeddings(rows, rows).features())
