"""The FastAPI application class: a stop signal, and an OpenAPI document that documents common headers."""

import threading
from typing import Any

from fastapi import FastAPI

_REQUEST_ID = {"x-request-id": {"description": "finds the request in the log", "schema": {"type": "string"}}}
RATE_LIMIT_HEADERS = {
    name: {"description": f"{description}; sent only if the service limits requests", "schema": {"type": "integer"}}
    for name, description in {
        "RateLimit-Limit": "requests that the API key may send per minute",
        "RateLimit-Remaining": "requests that are left",
        "RateLimit-Reset": "seconds until the full number may be sent again",
    }.items()
}


class Api(FastAPI):
    """The service's application."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stopping = threading.Event()
        """Set once the server has been told to stop."""
        self.headers_of_prefix: dict[str, dict[str, Any]] = {"/v1/": RATE_LIMIT_HEADERS}
        """The headers of every response below a path, for the document."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, with the request id and the headers of `headers_of_prefix` added to the responses."""
        cached = self.openapi_schema
        document = super().openapi()
        if document is cached:
            return document
        for path, operations in document["paths"].items():
            headers = dict(_REQUEST_ID)
            for prefix, common in self.headers_of_prefix.items():
                if path.startswith(prefix):
                    headers |= common
            for operation in operations.values():
                for response in operation["responses"].values():
                    response["headers"] = response.get("headers", {}) | headers
        return document
