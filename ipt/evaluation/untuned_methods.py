"""Methods that tune no vector: baselines on frozen embeddings, SetFit, and readouts with an untuned prompt.

They compare embeddings, so they need an encoder.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, labels_of, names_of
from ipt.evaluation.measurements import Detail, Measurement
from ipt.evaluation.protocol import Draw, Method, Setup
from ipt.evaluation.setfit import setfit
from ipt.readout.embeddings import Embeddings
from ipt.readout.linear_classifier import fit_linear
from ipt.readout.readout import fit_readout
from ipt.subspace.subspace import Subspace

LEANING_WEIGHT = 0.27
"""Weight of the classifier on both embeddings if there are too few examples to measure it."""


class EncoderMethod(Method):
    """A method that needs an encoder, and answers one draw at a time."""

    def measure(self, setup: Setup, draws: Sequence[Draw]) -> Iterator[Measurement]:
        if not isinstance(setup.backbone, EncoderBackbone):
            return
        for draw in draws:
            started = time.perf_counter()
            answers, detail = self.answer(setup.backbone, setup.subspace, draw)
            yield draw.measurement(self.name, answers, time.perf_counter() - started, detail)

    @abstractmethod
    def answer(self, backbone: EncoderBackbone, subspace: Subspace, draw: Draw) -> tuple[list[str], Detail]:
        """Return the label of each test row, and details of the measurement."""


class Baseline(EncoderMethod):
    """A classifier on frozen embeddings (`ipt.evaluation.baselines`)."""

    uses_subspace = False

    def __init__(
        self, name: str, classify: Callable[[EncoderBackbone, Sequence[Example], Sequence[str]], list[str]]
    ) -> None:
        super().__init__(name)
        self._classify = classify

    def answer(self, backbone: EncoderBackbone, _: Subspace, draw: Draw) -> tuple[list[str], Detail]:
        return self._classify(backbone, draw.examples, draw.texts), {}


class SetFit(EncoderMethod):
    """SetFit on the same backbone (`ipt.evaluation.setfit`)."""

    slow = True
    uses_subspace = False

    def answer(self, backbone: EncoderBackbone, _: Subspace, draw: Draw) -> tuple[list[str], Detail]:
        answers, seconds = setfit(backbone, draw.examples, draw.texts, draw.seed)
        return answers, {"seconds": seconds}


class UntunedReadout(EncoderMethod):
    """A readout with the prompt of the subspace's first initial vector, without tuning.

    Args:
        name: of the method.
        weight: the weight of the classifier on both embeddings, relative to the baseline; None: a classifier on
            the prompted embeddings only, without the labels' names.
        use_label_names: use the labels' names as additional examples.
    """

    def __init__(self, name: str, weight: float | None, *, use_label_names: bool = True) -> None:
        super().__init__(name)
        self._weight = weight
        self._use_label_names = use_label_names

    def answer(self, backbone: EncoderBackbone, subspace: Subspace, draw: Draw) -> tuple[list[str], Detail]:
        labels = labels_of(draw.examples)
        classes = torch.tensor([labels.index(example.output) for example in draw.examples])

        def embeddings(texts: Sequence[str]) -> Embeddings:
            with torch.inference_mode():
                prompt = subspace.decoder(subspace.initial_vectors[:1].to(backbone.device))
                both = backbone.embed_both(backbone.tokenize(texts), prompt.expand(len(texts), -1, -1))
            return Embeddings(*(each.float().cpu().clone() for each in both))

        examples, test = embeddings([row.input for row in draw.examples]), embeddings(draw.texts)
        if self._weight is None:
            logits = fit_linear(examples.prompted, classes, len(labels)).logits(test.prompted)
        else:
            names = names_of(labels) if self._use_label_names else ()
            names_embedded = embeddings(names) if names else None
            logits = fit_readout(examples, classes, len(labels), self._weight, names_embedded).logits(test)
        return [labels[i] for i in logits.argmax(dim=1).tolist()], {}
