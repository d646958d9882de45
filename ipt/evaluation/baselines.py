"""Baselines without tuning: classifiers on the frozen embeddings of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, labels_of
from ipt.readout.linear_classifier import fit_linear

NEIGHBOURS = 5


def class_names(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """Return for each text the label whose name has the nearest embedding."""
    labels = labels_of(examples)
    similar = _embed(backbone, texts) @ _embed(backbone, labels).T
    return [labels[i] for i in similar.argmax(dim=1).tolist()]


def logistic_regression(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """Return the label of each text by logistic regression on the embeddings of the examples."""
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    classifier = fit_linear(_embed(backbone, [example.input for example in examples]), classes, len(labels))
    return [labels[i] for i in classifier.logits(_embed(backbone, texts)).argmax(dim=1).tolist()]


def nearest_neighbours(backbone: EncoderBackbone, examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """Return for each text the label that most of its nearest examples have; ties go to the nearer examples."""
    labels = labels_of(examples)
    classes = torch.tensor([labels.index(example.output) for example in examples])
    similar = _embed(backbone, texts) @ _embed(backbone, [example.input for example in examples]).T
    nearest = similar.topk(min(NEIGHBOURS, len(examples)), dim=1)
    # Similarities are at most 1, so they only break ties.
    votes = torch.zeros(len(texts), len(labels)).scatter_add_(1, classes[nearest.indices], 1.0 + 1e-3 * nearest.values)
    return [labels[i] for i in votes.argmax(dim=1).tolist()]


def _embed(backbone: EncoderBackbone, texts: Sequence[str]) -> Tensor:
    with torch.inference_mode():
        return backbone.embed(backbone.tokenize(texts), None).float().cpu().clone()
