"""Read batch files: one request on each line, as OpenAI's batch API has them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from app.http.fields import Storable, StrictBody
from app.openai.json_lines import LineError, json_lines
from app.validation_messages import explain

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
MAX_REQUESTS = 50_000


class RequestLine(StrictBody):
    """Fields that OpenAI's API has besides these are ignored."""

    custom_id: Annotated[Storable, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: Endpoint
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request of a batch file, with its body as JSON."""

    line: int
    custom_id: str
    url: Endpoint
    body: str


def read_requests(content: bytes) -> Iterator[BatchRequest]:
    """Yield the requests of a batch file.

    Raises:
        LineError: the file cannot be used; the message names line and field.
    """
    first: BatchRequest | None = None
    ids: dict[str, int] = {}
    for line, record in json_lines(content):
        request = _request(line, record)
        first = first or request
        if request.url != first.url:
            message = f"is {request.url}, but the lines before have {first.url}: use one endpoint in a file"
            raise LineError(message, line=line, field="url")
        if request.custom_id in ids:
            message = f"is the same as on line {ids[request.custom_id]}: each request needs its own"
            raise LineError(message, line=line, field="custom_id")
        ids[request.custom_id] = line
        if len(ids) > MAX_REQUESTS:
            raise LineError(f"a batch has at most {MAX_REQUESTS:,} requests: split the file", line=line)
        yield request
    if first is None:
        raise LineError("the file is empty: send one JSON object on each line")


def _request(line: int, record: dict[str, Any]) -> BatchRequest:
    try:
        request = RequestLine.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise LineError(explain(first), line=line, field=str(first["loc"][0])) from None
    return BatchRequest(line, request.custom_id, request.url, json.dumps(request.body))
