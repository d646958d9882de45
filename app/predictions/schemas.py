"""Request and response bodies of predictions."""

from heapq import nlargest
from operator import itemgetter
from typing import Annotated, Literal

from pydantic import BaseModel, Field

import ipt
from app.http.fields import Body, Id, Listed, Text

TopK = Annotated[int, Field(ge=1, le=2**31 - 1)]
_TOP_K = "the number of scores of a prediction, highest first; by default the scores of all labels"


class PredictInput(Body):
    """Texts for one task."""

    inputs: Listed[Text] = Field(
        min_length=1, description="texts to answer", examples=[["I was charged twice", "The app crashes"]]
    )
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="the version of the task that answers; the newest by default", examples=[1]
    )
    top_k: TopK | None = Field(default=None, description=_TOP_K, examples=[3])


class TaskQuestion(Body):
    task_id: Id = Field(examples=["tsk_4f0m2q8z1x7c9v5b3n6k0j2h"])
    input: Text = Field(examples=["I was charged twice"])


class PredictManyInput(Body):
    """Texts for any number of tasks, computed in one batch."""

    requests: Listed[TaskQuestion] = Field(min_length=1)
    top_k: TopK | None = Field(default=None, description=_TOP_K, examples=[3])


class PredictionView(BaseModel):
    """`label` and `scores` for a classification task, `text` and `confidence` for a text-to-text task."""

    label: str | None = Field(default=None, description="the most probable label", examples=["billing"])
    scores: dict[str, float] | None = Field(
        default=None,
        description="the probability of every label, or of the `top_k` most probable ones",
        examples=[{"billing": 0.93, "bug": 0.07}],
    )
    text: str | None = Field(default=None, description="the generated text")
    confidence: float | None = Field(
        default=None,
        description="the geometric mean of the probabilities of the text's tokens; not calibrated: compare texts of "
        "one task by it",
        examples=[0.81],
    )
    truncated: Literal[True] | None = Field(
        default=None, description="the input was too long to be read completely; absent otherwise"
    )

    @classmethod
    def of(cls, prediction: ipt.Prediction, *, truncated: bool, top_k: int | None) -> "PredictionView":
        scores = prediction.scores
        if scores is not None and top_k is not None:
            scores = dict(nlargest(top_k, scores.items(), key=itemgetter(1)))
        return cls(
            label=prediction.label,
            scores=scores,
            text=prediction.text,
            confidence=prediction.confidence,
            truncated=True if truncated else None,
        )


class PredictView(BaseModel):
    task_id: str
    task_version: int = Field(description="the version that answered")
    predictions: list[PredictionView] = Field(description="one per input, in the same order")


class PredictManyView(BaseModel):
    predictions: list[PredictionView] = Field(description="one per request, in the same order")
