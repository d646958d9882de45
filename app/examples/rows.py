"""The rows of a dataset, with ids that are hashes of their content."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from app.db.models import Dataset


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One example of a dataset."""

    split: Literal["examples", "validation_examples"]
    input: str
    output: str

    @property
    def id(self) -> str:
        """The id, which equal examples share."""
        digest = hashlib.sha256(f"{self.input}\0{self.output}".encode())
        return f"exm_{digest.hexdigest()[:24]}"

    def relabelled(self, output: str) -> "DatasetRow":
        """Return the row with another output."""
        return replace(self, output=output)


def rows_of(dataset: Dataset) -> list[DatasetRow]:
    """Return all rows of a dataset: the examples, then the validation examples."""
    return [
        *(DatasetRow("examples", row["input"], row["output"]) for row in dataset.examples),
        *(DatasetRow("validation_examples", row["input"], row["output"]) for row in dataset.validation_examples or []),
    ]
