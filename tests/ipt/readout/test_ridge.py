"""The closed form of leave-one-out predictions equals refitting."""

import torch

from ipt.readout.ridge import class_targets, gram, leave_one_out
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


def test_leave_one_out_passes_gradients_to_the_embeddings() -> None:
    embeddings, labels, targets = data()
    embeddings = embeddings.double().requires_grad_(True)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(leave_one_out(gram(rows), targets.double(), 0.3), labels)

    assert torch.autograd.gradcheck(loss, (embeddings,))
