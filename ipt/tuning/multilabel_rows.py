"""The rows of a multi-label job on an encoder.

Letters: N examples, M validation examples, B rows of a step, C labels, K labels of a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipt.data.examples import Example
from ipt.tuning.encoder_rows import EncoderRows


class MultiLabelRows(EncoderRows):
    """Rows with any number of labels: `classes` [N + M, C] are booleans."""

    def draw(self, lane: int, rng: np.random.Generator, batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Draw rows [B] for a step of one lane, and return which of K labels they have [B, K].

        Equally many rows are drawn of each of the K labels, and of rows with none of these labels. A row that is drawn
        twice counts once.
        """
        rows_of_label = self.splits[lane].tuned_on
        per_label = max(2, batch_size // self.classes_per_step)
        labels = rng.choice(list(rows_of_label), size=self.classes_per_step, replace=False)
        drawn = [rng.permutation(rows_of_label[label])[:per_label] for label in labels.tolist()]
        pool = self._tuned_rows(lane)
        others = pool[~self.classes[pool][:, labels].any(dim=1).numpy()]
        rows = np.unique(np.concatenate([*drawn, rng.permutation(others)[:per_label]]))
        return rows, self.classes[rows][:, labels].numpy()

    def _tuned_rows(self, lane: int) -> NDArray[np.int64]:
        """Return all examples that the vector of a lane is tuned on."""
        measured = self.splits[lane].measured if self.score_source == "out_of_fold" else []
        return np.setdiff1d(self.examples, measured)

    def _classes_of(self, known: Sequence[Example], labels: Sequence[str]) -> Tensor:
        number = {label: c for c, label in enumerate(labels)}
        classes = torch.zeros(len(known), len(labels), dtype=torch.bool)
        for row, example in enumerate(known):
            classes[row, [number[label] for label in example.labels]] = True
        return classes

    def _by_class(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Return the rows of each label that at least two have; of every label if no label has two."""
        of_label: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            for label in self.classes[row].nonzero().flatten().tolist():
                of_label[label].append(row)
        several = {label: of_label[label] for label in sorted(of_label) if len(of_label[label]) > 1}
        return several or {label: of_label[label] for label in sorted(of_label)}
