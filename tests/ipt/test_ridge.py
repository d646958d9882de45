"""The closed forms equal what they stand for."""

import torch

from ipt.ridge import RidgePath, class_targets, gram, leave_one_out
from tests.reference.ist import leave_one_out_by_refitting


def data(count: int = 12, features: int = 7, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(count, features, generator=generator), dim=1)
    labels = torch.arange(count) % classes
    return embeddings, labels, class_targets(labels, classes)


def test_leave_one_out_scores_equal_refitting_without_each_row() -> None:
    embeddings, _, targets = data()
    expected = leave_one_out_by_refitting(embeddings, targets, 0.3)
    torch.testing.assert_close(leave_one_out(gram(embeddings), targets, 0.3), expected, atol=1e-5, rtol=0)
    path = RidgePath.of(embeddings, targets, torch.ones(len(embeddings)))
    torch.testing.assert_close(path.leave_one_out(0.3), expected, atol=1e-5, rtol=0)


def test_the_path_gives_the_solution_of_the_normal_equations_for_every_ridge() -> None:
    embeddings, _, targets = data(count=5)
    biased = torch.cat([embeddings, torch.ones(5, 1)], dim=1)
    path = RidgePath.of(embeddings, targets, torch.ones(5))
    for ridge in (0.01, 1.0, 30.0):
        expected = torch.linalg.solve(biased.T @ biased + ridge * torch.eye(8), biased.T @ targets).T
        torch.testing.assert_close(path.weights(ridge), expected, atol=1e-5, rtol=0)


def test_a_weight_of_two_counts_a_row_twice() -> None:
    embeddings, _, targets = data()
    weights = torch.ones(12)
    weights[3] = 2.0
    twice = RidgePath.of(torch.cat([embeddings, embeddings[3:4]]), torch.cat([targets, targets[3:4]]), torch.ones(13))
    torch.testing.assert_close(
        RidgePath.of(embeddings, targets, weights).weights(0.5), twice.weights(0.5), atol=1e-6, rtol=0
    )


def test_leave_one_out_passes_gradients_to_the_embeddings() -> None:
    embeddings, labels, targets = data()
    embeddings = embeddings.double().requires_grad_(True)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(leave_one_out(gram(rows), targets.double(), 0.3), labels)

    assert torch.autograd.gradcheck(loss, (embeddings,))
