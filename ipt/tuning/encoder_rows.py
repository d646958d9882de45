"""The rows of a classification job on an encoder, and which of them each stage of tuning uses.

Rows are the examples, then the validation examples, then the names of the labels, which the readout is also fitted to,
then the examples that belong to no label, which only the scope is fitted to.
Letters: N examples, M validation examples, B rows of a step, F lanes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipt.backbones.encoder import EncoderBackbone
from ipt.data.examples import Example, names_of
from ipt.data.labels import is_out_of_scope
from ipt.data.near_duplicates import near_duplicate_groups, new_rows, new_token_ids
from ipt.data.sampling import balanced_sample
from ipt.readout.cross_validation import assign_folds
from ipt.tuning.job import TuningJob
from ipt.tuning.reading_warnings import Vocabulary

FOLDS = 3
"""Lanes that are tuned on all examples but those of one fold."""
MAX_CLASSES_PER_STEP = 6
READOUT_ROWS = 4096
"""Most examples that the vectors and the final readout are fitted to."""
OUTSIDE_ROWS = 256
"""Most examples that belong to no label, which are read."""
VALIDATION_ROWS = 256
"""Most examples, and most validation examples, of one validation."""
FIRST_LOOK_SHARE = 0.25
"""Share of the examples that the initial vectors are compared on (docs/decisions/0034)."""
FIRST_LOOK_PER_LABEL = 4
"""Smallest number of examples of each label in that comparison."""


class Split(NamedTuple):
    """The rows of one lane."""

    tuned_on: dict[int, list[int]]
    """The rows of each class that steps draw from."""
    fitted: list[int]
    """Rows that a validation fits the readout to; the vector may have been tuned on them."""
    measured: list[int]
    """Rows that a validation measures the readout on; the vector was not tuned on them."""


class EncoderRows:
    """Token ids of all rows, and the numbers of the rows of each kind."""

    def __init__(self, job: TuningJob, labels: Sequence[str], backbone: EncoderBackbone, prompt_length: int) -> None:
        rng = np.random.default_rng([job.hyperparameters.seed, 3])
        inside = [i for i, example in enumerate(job.examples) if not is_out_of_scope(example.output)]
        outside = [i for i, example in enumerate(job.examples) if is_out_of_scope(example.output)][:OUTSIDE_ROWS]
        kept = [inside[i] for i in balanced_sample([job.examples[i] for i in inside], READOUT_ROWS, rng)]
        examples = [job.examples[i] for i in kept]
        all_validation = job.validation_examples or []
        new = [i for i in new_rows(all_validation, job.examples) if not is_out_of_scope(all_validation[i].output)]
        new = [new[i] for i in balanced_sample([all_validation[i] for i in new], VALIDATION_ROWS, rng)]
        names = names_of(labels)
        texts = [*(example.input for example in examples), *(all_validation[i].input for i in new)]
        texts += [*names, *(job.examples[i].input for i in outside)]
        read = backbone.tokenize_flagged(texts, prompt_length)  # as prediction reads them
        end = len(examples) + len(new)
        different = new_token_ids(
            [ids for ids, _ in read[len(examples) : end]], [ids for ids, _ in read[: len(examples)]]
        )
        read = [*read[: len(examples)], *(read[len(examples) + i] for i in different), *read[end:]]
        new = [new[i] for i in different]
        validation = [all_validation[i] for i in new]
        known = examples + validation
        self.dataset_rows = [*kept, *(len(job.examples) + i for i in new)]
        """[N + M]: the number of each row among all examples of the job, which its validation examples follow."""
        self.token_ids = [ids for ids, _ in read]
        self.truncated = sum(is_cut for _, is_cut in read[: len(known)])
        """How many texts of examples are cut."""
        self.unknown_tokens = Vocabulary(backbone).unknown_share(self.token_ids[: len(known)])
        """Share of the tokens of the examples that are unknown to the backbone."""
        self.examples = list(range(len(examples)))
        self.known = list(range(len(known)))
        """Examples and validation examples, which the final readout is fitted to."""
        self.names = list(range(len(known), len(known) + len(names)))
        self.outside = list(range(len(known) + len(names), len(read)))
        self.classes = self._classes_of(known, labels)
        """[N + M], on the CPU."""
        self.groups = near_duplicate_groups(known, self.token_ids[: len(known)])
        """[N + M]: near-duplicates share a group, which no split takes apart."""
        self.probe = balanced_sample(examples, VALIDATION_ROWS, rng)
        """Examples that validations use."""
        limit = max(math.ceil(FIRST_LOOK_SHARE * len(self.probe)), FIRST_LOOK_PER_LABEL * len(labels))
        sample = balanced_sample([examples[row] for row in self.probe], limit, rng)
        self.first_look = [self.probe[i] for i in sample]
        """Examples that the initial vectors are compared on."""
        splits = self._with_validation() if validation else self._folds()
        self.score_source = "none" if not splits else "held_back" if validation else "out_of_fold"
        """What measures the vectors; "none" if validations have to use the rows that the lanes are tuned on."""
        self.splits = splits or [Split(self._by_class(self.examples), self.probe, self.probe)]
        self.measured = [row for split in self.splits for row in split.measured]
        """The rows that validations measure, in the order of the splits."""
        self.validated = sorted({*self.probe, *self.measured})
        """The rows that validations read."""
        self.classes_per_step = min(MAX_CLASSES_PER_STEP, *(len(split.tuned_on) for split in self.splits))

    def draw(self, lane: int, rng: np.random.Generator, batch_size: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Draw rows [B] for a step of one lane, equally many of some classes, and number those classes from 0."""
        rows_of_class = list(self.splits[lane].tuned_on.values())
        per_class = max(2, batch_size // self.classes_per_step)
        chosen = rng.choice(len(rows_of_class), size=self.classes_per_step, replace=False)
        drawn = [rng.permutation(rows_of_class[c])[:per_class] for c in chosen]
        return np.concatenate(drawn), np.repeat(np.arange(self.classes_per_step), [len(rows) for rows in drawn])

    def _classes_of(self, known: Sequence[Example], labels: Sequence[str]) -> Tensor:
        """Return the class of each example."""
        number = {label: c for c, label in enumerate(labels)}
        return torch.tensor([number[example.output] for example in known])

    def _with_validation(self) -> list[Split]:
        """Return one split, which measures the validation examples."""
        return [Split(self._by_class(self.examples), self.probe, self.known[len(self.examples) :])]

    def _folds(self) -> list[Split]:
        """Return a split for each fold of the examples, which measures that fold.

        There is no fold if every label has one text only.
        """
        folds = assign_folds(self.classes, FOLDS, self.groups).tolist()
        splits = []
        for fold in range(FOLDS):
            measured = [row for row in self.probe if folds[row] == fold]
            if measured:
                kept = [row for row in self.examples if folds[row] != fold]
                splits.append(Split(self._by_class(kept), [row for row in self.probe if folds[row] != fold], measured))
        return splits

    def _by_class(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Return the rows of each class; classes of a single row are left out if at least two classes have more.

        The loss leaves each row out in turn, and no other row tells of the class of a single one.
        """
        of_class: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            of_class[int(self.classes[row])].append(row)
        several = {c: of_class[c] for c in sorted(of_class) if len(of_class[c]) > 1}
        return several if len(several) > 1 else {c: of_class[c] for c in sorted(of_class)}
