"""The rows of a dataset, with ids that are hashes of their content."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import ipt
from app.adaptations.dataset_checks import with_labels
from app.adaptations.schemas import LabelSet
from app.db.models import Dataset, Kind
from app.errors import InvalidError


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One example of a dataset."""

    split: Literal["examples", "validation_examples"]
    input: str
    output: str
    kind: Kind = "classification"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the row; its output, unless the task has several labels at once."""
        return ipt.Example("", self.output).labels if self.kind == "multilabel" else (self.output,)

    @property
    def shown_output(self) -> str | list[str]:
        """The output as the API shows it: a list if the task has several labels at once."""
        return list(self.labels) if self.kind == "multilabel" else self.output

    def with_labels_replaced(self, replaced: Collection[str], to: str) -> "DatasetRow":
        """Return the row with another label in place of some; the row itself if it has none of them."""
        if not any(label in replaced for label in self.labels):
            return self
        if self.kind != "multilabel":
            return replace(self, output=to)
        labels = [to if label in replaced else label for label in self.labels]
        return replace(self, output=ipt.Example.with_labels("", labels).output)

    @property
    def id(self) -> str:
        """The id, which equal examples share."""
        digest = hashlib.sha256(f"{self.input}\0{self.output}".encode())
        return f"exm_{digest.hexdigest()[:24]}"

    def relabelled(self, output: str) -> "DatasetRow":
        """Return the row with another output."""
        return replace(self, output=output_of(output, self.kind))


def rows_of(dataset: Dataset, kind: Kind) -> list[DatasetRow]:
    """Return all rows of a dataset: the examples, then the validation examples."""
    return [
        *(DatasetRow("examples", row["input"], row["output"], kind) for row in dataset.examples),
        *(
            DatasetRow("validation_examples", row["input"], row["output"], kind)
            for row in dataset.validation_examples or []
        ),
    ]


def output_of(output: str, kind: Kind) -> str:
    """Return an output as datasets of this kind store it.

    Raises:
        InvalidError: it is a list of labels, and the kind is another than multilabel.
    """
    if kind != "multilabel" and isinstance(output, LabelSet):
        raise InvalidError(
            "this task has one label for each text: send one, not a list", code="invalid_value", param="output"
        )
    return with_labels(ipt.Example("", output)).output if kind == "multilabel" else output
