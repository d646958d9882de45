"""Response bodies of datasets."""

from typing import Literal

from pydantic import BaseModel, Field

from app.adaptations.schemas import FileSources
from app.db.models import Kind
from ipt.data.preparation import PreparedDataset, label_counts


class DatasetCheckView(BaseModel):
    object: Literal["dataset_check"] = "dataset_check"
    kind: Kind
    examples: int = Field(description="how many examples a task would be tuned on")
    validation_examples: int | None = Field(description="null if some of the examples would be held back")
    labels: dict[str, int] = Field(description="examples of each label; empty for text2text")
    warnings: list[str] = Field(description="likely problems of the examples")
    source: FileSources | None = Field(description="how the files of a form were read; null for a JSON body")

    @classmethod
    def of(cls, dataset: PreparedDataset, warnings: list[str], source: FileSources | None) -> "DatasetCheckView":
        validation = dataset.validation_examples
        return cls(
            kind=dataset.kind,
            examples=len(dataset.examples),
            validation_examples=None if validation is None else len(validation),
            labels=label_counts(dataset),
            warnings=warnings,
            source=source,
        )
