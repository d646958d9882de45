"""Request and response bodies of suggestions."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.http.fields import Body, Listed, Text, VersionNumber

MAX_INPUTS = 10_000
MAX_COUNT = 256


class SuggestInput(Body):
    """Unlabelled texts, and how many of them to label next."""

    inputs: Listed[Text] | None = Field(
        default=None,
        min_length=1,
        description=f"at most {MAX_INPUTS:,} texts without labels; by default the texts that the service has kept for "
        "this task, which needs the scope `adapt`",
        examples=[["Where is my parcel?", "I was charged twice"]],
    )
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = Field(default=16, description="most suggestions")
    version: VersionNumber | None = Field(
        default=None, description="the version of the task; by default the one that answers"
    )


class SuggestionView(BaseModel):
    index: int | None = Field(description="the position of the text in `inputs`; null if it is a kept text")
    text: str
    label: str = Field(description="the most probable label; of a multi-label task the most doubtful one")
    uncertainty: float = Field(
        description="1 less the margin between the two most probable labels, or between a label and its absence"
    )


class SuggestView(BaseModel):
    task_id: str
    task_version: int
    suggestions: list[SuggestionView] = Field(description="the most useful text first; fewer if there are fewer texts")
