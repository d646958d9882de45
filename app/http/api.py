"""The FastAPI application class: a stop signal, and an OpenAPI document with the headers of every response."""

import threading
from typing import Any

from fastapi import FastAPI

_REQUEST_ID = {"x-request-id": {"description": "finds the request in the log", "schema": {"type": "string"}}}
_RATE_LIMIT = {
    name: {"description": f"{what}; where requests are limited", "schema": {"type": "integer"}}
    for name, what in {
        "RateLimit-Limit": "requests that the API key may send in a minute",
        "RateLimit-Remaining": "how many of them are left",
        "RateLimit-Reset": "seconds until all of them may be sent again",
    }.items()
}


class Api(FastAPI):
    """The service's application."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stopping = threading.Event()
        """Set once the server has been told to stop."""

    def openapi(self) -> dict[str, Any]:
        """The document: every answer has a request id, and those of counted requests say how the limit stands."""
        known = self.openapi_schema
        document = super().openapi()
        if document is known:
            return document
        for path, operations in document["paths"].items():
            headers = _REQUEST_ID | (_RATE_LIMIT if path.startswith("/v1/") else {})
            for operation in operations.values():
                for response in operation["responses"].values():
                    response["headers"] = response.get("headers", {}) | headers
        return document
