"""The rows of a classification job on an encoder, and which of them each stage of tuning uses.

Rows are the training examples, then the held-back examples, then the names of the labels, which the readout is also
fitted to. Letters: N examples, B rows of a step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, names_of

MAX_CLASSES_PER_STEP = 6
TUNING_TOKENS = 128
"""Tuning truncates longer texts to this many tokens; prediction reads as much as the backbone can."""
READOUT_ROWS = 4096
"""Most training examples that the final readout is fitted to."""
VALIDATION_ROWS = 256
"""Most training rows, and most held-back rows, of one validation."""
FIRST_LOOK_SHARE = 0.25
"""Share of the examples that all initial vectors are first compared on (docs/decisions/0034)."""
FIRST_LOOK_PER_LABEL = 4
"""Smallest number of examples of each label in that comparison."""


class EncoderRows:
    """Token ids of all rows, and the numbers of the rows of each kind."""

    def __init__(
        self,
        train: Sequence[Example],
        held_back: Sequence[Example],
        labels: Sequence[str],
        backbone: EncoderBackbone,
        seed: int,
    ) -> None:
        rng = np.random.default_rng([seed, 3])
        train = [train[i] for i in _balanced_sample(train, READOUT_ROWS, rng)]
        held_back = [held_back[i] for i in _balanced_sample(held_back, VALIDATION_ROWS, rng)]
        examples = train + held_back
        texts = [*(example.input for example in examples), *names_of(labels)]
        self.token_ids = backbone.tokenize(texts, max_tokens=TUNING_TOKENS)
        self.names = list(range(len(examples), len(texts)))
        index = {label: number for number, label in enumerate(labels)}
        self.classes = torch.tensor([index[example.output] for example in examples])
        """[N], on the CPU."""
        self.train = list(range(len(train)))
        self.held_back = list(range(len(train), len(examples)))
        self.probe = _balanced_sample(train, VALIDATION_ROWS, rng)
        """Training rows that a validation fits the readout to."""
        self.validation = self.probe + self.held_back
        limit = max(math.ceil(FIRST_LOOK_SHARE * len(self.validation)), FIRST_LOOK_PER_LABEL * len(labels))
        sample = _balanced_sample([examples[row] for row in self.validation], limit, rng)
        self.first_look = [self.validation[i] for i in sample]
        train_classes = self.classes[: len(train)].numpy()
        self._rows_of_class = [np.flatnonzero(train_classes == c) for c in np.unique(train_classes)]
        self.classes_per_step = min(len(self._rows_of_class), MAX_CLASSES_PER_STEP)

    def draw(self, rng: np.random.Generator, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw training rows [B] for one lane's step, equally many of some classes, and number those classes from 0."""
        per_class = max(2, batch_size // self.classes_per_step)
        chosen = rng.choice(len(self._rows_of_class), size=self.classes_per_step, replace=False)
        drawn = [rng.permutation(self._rows_of_class[c])[:per_class] for c in chosen]
        return np.concatenate(drawn), np.repeat(np.arange(self.classes_per_step), [len(rows) for rows in drawn])


def _balanced_sample(examples: Sequence[Example], limit: int, rng: np.random.Generator) -> list[int]:
    """Return the sorted indices of at most `limit` random examples, drawn round robin from the labels."""
    if len(examples) <= limit:
        return list(range(len(examples)))
    drawn_of_label: dict[str, int] = defaultdict(int)
    ranked = []
    for index in rng.permutation(len(examples)).tolist():
        label = examples[index].output
        ranked.append((drawn_of_label[label], index))
        drawn_of_label[label] += 1
    return sorted(index for _, index in sorted(ranked)[:limit])
