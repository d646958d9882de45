"""Request and response bodies of predictions."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

import ipt
from app.http.fields import Body, Id, Listed, Text


class PredictInput(Body):
    """Texts for one task."""

    inputs: Listed[Text] = Field(
        min_length=1, description="texts to answer", examples=[["I was charged twice", "The app crashes"]]
    )
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="the version of the task that answers; the newest by default", examples=[1]
    )


class TaskQuestion(Body):
    task_id: Id = Field(examples=["tsk_4f0m2q8z1x7c9v5b3n6k0j2h"])
    input: Text = Field(examples=["I was charged twice"])


class PredictManyInput(Body):
    """Texts for any number of tasks, computed in one batch."""

    requests: Listed[TaskQuestion] = Field(min_length=1)


class PredictionView(BaseModel):
    """`label` and `scores` for a classification task, `text` for a text-to-text task."""

    label: str | None = Field(default=None, description="the most probable label", examples=["billing"])
    scores: dict[str, float] | None = Field(
        default=None, description="the probability of every label", examples=[{"billing": 0.93, "bug": 0.07}]
    )
    text: str | None = Field(default=None, description="the generated text")
    truncated: Literal[True] | None = Field(
        default=None, description="the input was too long to be read completely; absent otherwise"
    )

    @classmethod
    def of(cls, prediction: ipt.Prediction, *, truncated: bool) -> "PredictionView":
        return cls(
            label=prediction.label,
            scores=prediction.scores,
            text=prediction.text,
            truncated=True if truncated else None,
        )


class PredictView(BaseModel):
    task_id: str
    task_version: int = Field(description="the version that answered")
    predictions: list[PredictionView] = Field(description="one per input, in the same order")


class PredictManyView(BaseModel):
    predictions: list[PredictionView] = Field(description="one per request, in the same order")
