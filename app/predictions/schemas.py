"""Request and response bodies of predictions."""

from heapq import nlargest
from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import ipt
from app.http.fields import Body, Id, Listed, Text, VersionNumber
from app.predictions.thresholds import Reason, Thresholds

TopK = Annotated[int, Field(ge=1, le=2**31 - 1)]
_TOP_K = "the number of scores of a prediction, highest first; by default the scores of all labels"


Threshold = Annotated[float, Field(ge=0, le=1)]


class ThresholdsInput(Body):
    """Below which a prediction has no label, or no text."""

    min_score: Threshold | None = Field(
        default=None,
        description="a label with a lower score, or a text with a lower confidence, is null, with the reason "
        "`low_score`, and is left out of `labels`; by default that of the task",
        examples=[0.5],
    )
    min_in_scope: Threshold | None = Field(
        default=None,
        description="the label of a text with a lower `in_scope` is null, with the reason `out_of_scope`; by default "
        "that of the task",
        examples=[0.5],
    )

    def thresholds(self) -> dict[str, float | None]:
        """Return the thresholds that the request has, also as null."""
        return {name: getattr(self, name) for name in Thresholds._fields if name in self.model_fields_set}


class PredictInput(ThresholdsInput):
    """Texts for one task."""

    inputs: Listed[Text] = Field(
        min_length=1, description="texts to answer", examples=[["I was charged twice", "The app crashes"]]
    )
    version: VersionNumber | None = Field(
        default=None, description="the version that answers; by default the task decides", examples=[1]
    )
    top_k: TopK | None = Field(default=None, description=_TOP_K, examples=[3])


class TaskQuestion(Body):
    task_id: Id = Field(examples=["tsk_4f0m2q8z1x7c9v5b3n6k0j2h"])
    version: VersionNumber | None = Field(
        default=None, description="the version that answers; by default the task decides", examples=[1]
    )
    input: Text = Field(examples=["I was charged twice"])


class PredictManyInput(ThresholdsInput):
    """Texts for any number of tasks, computed in one batch."""

    requests: Listed[TaskQuestion] = Field(min_length=1)
    top_k: TopK | None = Field(default=None, description=_TOP_K, examples=[3])


class PredictionView(BaseModel):
    """What a task answers.

    `label` and `scores` for a classification task, `labels` and `scores` for a multi-label task, `text` and
    `confidence` for a text-to-text task.
    """

    label: str | None = Field(
        default=None, description="the most probable label; null if there is a `reason`", examples=["billing"]
    )
    labels: list[str] | None = Field(
        default=None,
        description="of a multi-label task: all labels of the text, the most probable first",
        examples=[["billing", "refund"]],
    )
    scores: dict[str, float] | None = Field(
        default=None,
        description="the probability of every label, or of the `top_k` most probable ones; those of a multi-label task "
        "do not add up to 1",
        examples=[{"billing": 0.93, "bug": 0.07}],
    )
    in_scope: float | None = Field(
        default=None,
        description="the probability that the text belongs to any label of the task, if half of all texts do; absent "
        "if the version cannot tell",
        examples=[0.97],
    )
    reason: Reason | None = Field(default=None, description="why there is no label or text; absent otherwise")
    text: str | None = Field(default=None, description="the generated text; null if there is a `reason`")
    confidence: float | None = Field(
        default=None,
        description="the probability that the text is exactly right, from the probabilities of its tokens and how "
        "often such texts are right on the task's held-back examples",
        examples=[0.81],
    )
    truncated: Literal[True] | None = Field(
        default=None, description="the input was too long to be read completely; absent otherwise"
    )

    @classmethod
    def of(
        cls,
        prediction: ipt.Prediction,
        *,
        truncated: bool,
        top_k: int | None,
        thresholds: Thresholds = Thresholds(),  # noqa: B008 - immutable
    ) -> "PredictionView":
        """Return the view of a prediction; fields without a value are not set, so that responses omit them."""
        fields: dict[str, Any] = {}
        if prediction.scores is not None:
            fields["scores"] = prediction.scores
            if top_k is not None:
                fields["scores"] = dict(nlargest(top_k, prediction.scores.items(), key=itemgetter(1)))
            if prediction.labels is None:
                reason = thresholds.reason(prediction)
                fields["label"] = prediction.label if reason is None else None
            else:
                fields["labels"] = thresholds.kept(prediction.labels, prediction.scores)
                reason = "low_score" if prediction.labels and not fields["labels"] else None
            if reason is not None:
                fields["reason"] = reason
        for name in ("in_scope", "text", "confidence"):
            value = getattr(prediction, name)
            if value is not None:
                fields[name] = value
        least = thresholds.min_score
        if prediction.confidence is not None and least is not None and prediction.confidence < least:
            fields["text"], fields["reason"] = None, "low_score"
        if truncated:
            fields["truncated"] = True
        return cls(**fields)


class PredictView(BaseModel):
    task_id: str
    task_version: int = Field(description="the version that answered")
    predictions: list[PredictionView] = Field(description="one per input, in the same order")


class VersionedPredictionView(PredictionView):
    version: int = Field(description="the version of the task that answered")


class PredictManyView(BaseModel):
    predictions: list[VersionedPredictionView] = Field(description="one per request, in the same order")
