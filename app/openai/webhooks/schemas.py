"""Request and response bodies of webhook endpoints, with OpenAI's field names."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.db.webhook_models import WebhookEndpoint
from app.http.fields import Listed, Name, Storable, StrictBody
from app.openai.pages import Identified, seconds

EventType = Literal[
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.expired",
    "batch.cancelled",
]
EventTypes = Annotated[
    Listed[EventType],
    Field(min_length=1, max_length=32, description="what the endpoint is told of", examples=[["batch.completed"]]),
]
Url = Annotated[
    Storable,
    Field(max_length=2048, description="the receiver; `https`, or `http`", examples=["https://hooks.example/jobs"]),
]
_HINT_CHARS = 4


class EndpointInput(StrictBody):
    """Fields that OpenAI's API has besides these are ignored."""

    name: Name = Field(examples=["jobs"])
    url: Url
    event_types: EventTypes


class EndpointChanges(StrictBody):
    """Fields that are missing stay as they are."""

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class RotationInput(StrictBody):
    keep_old_secret_active_for_24_hours: bool = Field(
        default=False, description="messages are signed with both secrets until then"
    )


class SampleInput(StrictBody):
    event_type: EventType


class EndpointView(Identified):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str = Field(description="the end of the secret")
    last_error: str | None = Field(description="why the last delivery failed; null if it did not")

    @classmethod
    def of(cls, row: WebhookEndpoint) -> "EndpointView":
        return cls(
            id=row.id,
            created_at=seconds(row.created_at),
            updated_at=seconds(row.updated_at),
            name=row.name,
            url=row.url,
            event_types=row.event_types,
            signing_secret_hint=f"…{row.secret[-_HINT_CHARS:]}",
            last_error=row.last_error,
        )


class EndpointWithSecretView(EndpointView):
    signing_secret: str = Field(description="verifies messages; shown only now")

    @classmethod
    def of(cls, row: WebhookEndpoint) -> "EndpointWithSecretView":
        return cls(**EndpointView.of(row).model_dump(), signing_secret=row.secret)


class DeletedEndpointView(BaseModel):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class SampleView(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int = Field(description="of the receiver's answer")
    success: Literal[True] = True


class EventTypesView(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]
