"""Request and response bodies of classifications."""

from pydantic import BaseModel, Field

from app.adaptations.schemas import ExampleInput
from app.http.fields import Listed, Text
from app.predictions.schemas import PredictionView, ThresholdsInput, TopK

_EXAMPLES = [
    {"input": "I was charged twice this month", "output": "billing"},
    {"input": "My card was declined but the money is gone", "output": "billing"},
    {"input": "The export button does nothing", "output": "bug"},
    {"input": "The page stays blank after the update", "output": "bug"},
]


class ClassifyInput(ThresholdsInput):
    """Examples of each label, and texts to classify."""

    examples: Listed[ExampleInput] = Field(
        min_length=1, description="at least 2 for each label; about 16 are enough", examples=[_EXAMPLES]
    )
    inputs: Listed[Text] = Field(min_length=1, description="texts to classify", examples=[["The invoice is wrong"]])
    top_k: TopK | None = Field(
        default=None,
        description="the number of scores of a prediction, highest first; by default the scores of all labels",
        examples=[2],
    )


class ClassifyView(BaseModel):
    predictions: list[PredictionView] = Field(description="one per input, in the same order")
    warnings: list[str] = Field(description="likely problems of the examples")
