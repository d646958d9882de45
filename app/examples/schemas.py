"""Request and response bodies of a task's examples."""

from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from app.adaptations.schemas import ExampleInput, HyperparametersInput, Output
from app.db.models import State
from app.examples.rows import DatasetRow
from app.http.fields import Body, Listed, Text, VersionNumber
from app.http.pagination import Page
from ipt.data.examples import MAX_LABELS

Split = Literal["examples", "validation_examples"]


class ExampleView(BaseModel):
    id: str = Field(description="of the input and the output: equal examples share it", examples=["exm_0f3a…"])
    object: Literal["example"] = "example"
    split: Split
    input: str
    output: str | list[str] = Field(description="of a multi-label task the list of its labels")

    @classmethod
    def of(cls, row: DatasetRow) -> "ExampleView":
        return cls(id=row.id, split=row.split, input=row.input, output=row.shown_output)


class ExamplesPage(Page[ExampleView]):
    version: int = Field(description="the version of the task that is tuned on these examples; send it with a change")
    state: State = Field(description="that of the version's adaptation")
    content_hash: str = Field(description="the SHA-256 of all examples; equal datasets share it")
    labels: dict[str, int] = Field(description="examples by label, of the whole dataset; empty for text to text")

    @staticmethod
    def labels_of(rows: list[DatasetRow], kind: str) -> dict[str, int]:
        return {} if kind == "text2text" else dict(Counter(label for row in rows for label in row.labels))


class SuspectView(BaseModel):
    """An example that another label fits better, as classifiers say that were not fitted to it."""

    object: Literal["suspect"] = "suspect"
    example: ExampleView
    likely_label: str = Field(description="of a multi-label task the label that the example lacks or has too many")
    belongs: bool = Field(description="whether the example should have the label; false only in a multi-label task")
    likely_probability: float = Field(description="that this is right")
    given_probability: float = Field(description="the probability of what the example has")


class ChangeView(BaseModel):
    """What a version's examples are, and how they differ from the version that they were changed from."""

    object: Literal["examples_version"] = "examples_version"
    version: int
    state: State
    adaptation_id: str
    content_hash: str
    examples: int
    validation_examples: int
    change: dict[str, Any] | None = Field(
        description="`version`: the changed one, and how many examples were added, relabelled and removed, and which "
        "labels were renamed and merged; null for a dataset that was sent whole"
    )
    created_at: datetime


class ExampleRef(Body):
    """Names examples by id, or by text: all examples with this input."""

    id: Annotated[str, Field(max_length=64)] | None = None
    input: Text | None = None

    @model_validator(mode="after")
    def _one_name(self) -> "ExampleRef":
        if (self.id is None) == (self.input is None):
            raise ValueError("needs either id or input")
        return self

    @property
    def name(self) -> tuple[str, str]:
        """The field that names examples, and its value."""
        return ("id", self.id or "") if self.input is None else ("input", self.input)


class Relabelling(ExampleRef):
    output: Output = Field(
        description="the new label, or list of labels, which may be new to the task", examples=["billing"]
    )


class Renaming(Body):
    label: Text
    to: Text = Field(description="a label that the task does not have yet")


class Merging(Body):
    labels: Listed[Text] = Field(min_length=1, examples=[["invoice", "payment"]])
    into: Text = Field(description="one of the task's labels, or a new one", examples=["billing"])


class ChangeInput(Body):
    """Changes to the examples of one version, which are made in the order of these fields.

    To split a label, relabel some of its examples.
    """

    version: VersionNumber = Field(
        description="the version whose examples change, which must be the newest: `version` of GET"
    )
    remove: Listed[ExampleRef] = Field(default_factory=list)
    relabel: Listed[Relabelling] = Field(default_factory=list)
    rename_labels: Listed[Renaming] = Field(default_factory=list, max_length=MAX_LABELS)
    merge_labels: Listed[Merging] = Field(default_factory=list, max_length=MAX_LABELS)
    add: Listed[ExampleInput] = Field(default_factory=list)
    hyperparameters: HyperparametersInput = Field(default_factory=HyperparametersInput)

    @model_validator(mode="after")
    def _some_change(self) -> "ChangeInput":
        if not (self.remove or self.relabel or self.rename_labels or self.merge_labels or self.add):
            raise ValueError("changes nothing: send remove, relabel, rename_labels, merge_labels or add")
        return self
