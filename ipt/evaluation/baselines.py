"""What a task is answered by without any tuning: a linear classifier, or what is nearest, on frozen embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, labels_of
from ipt.readout.linear_classifier import fit_linear

NEIGHBOURS = 5


def class_names(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The label whose name's embedding is nearest to each text's."""
    labels = labels_of(examples)
    similar = _embed(backbone, texts) @ _embed(backbone, labels).T
    return [labels[i] for i in similar.argmax(dim=1).tolist()]


def logistic_regression(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The label of each text by logistic regression on the frozen embeddings of the examples."""
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    classifier = fit_linear(_embed(backbone, [example.input for example in examples]), classes, len(labels))
    return [labels[i] for i in classifier.logits(_embed(backbone, texts)).argmax(dim=1).tolist()]


def nearest_neighbours(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The label that most of the nearest examples have; of equals, the one whose examples are nearer."""
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    similar = _embed(backbone, texts) @ _embed(backbone, [example.input for example in examples]).T
    nearest = similar.topk(min(NEIGHBOURS, len(examples)), dim=1)
    # Similarities are at most 1, so they decide between equal counts alone.
    votes = torch.zeros(len(texts), len(labels)).scatter_add_(1, classes[nearest.indices], 1.0 + 1e-3 * nearest.values)
    return [labels[i] for i in votes.argmax(dim=1).tolist()]


WITHOUT_TUNING = {
    "class names": class_names,
    "logistic regression": logistic_regression,
    "nearest neighbours": nearest_neighbours,
}


def _embed(backbone: EncoderBackbone, texts: Sequence[str]) -> Tensor:
    with torch.inference_mode():
        return backbone.embed(backbone.tokenize(texts), None).float().cpu().clone()
