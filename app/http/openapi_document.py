"""The FastAPI application class: a stop signal, and an OpenAPI document that documents common headers."""

import threading
from typing import Any

from fastapi import FastAPI

_REQUEST_ID = {"x-request-id": {"description": "finds the request in the log", "schema": {"type": "string"}}}
_RATE_LIMIT = {
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

    def openapi(self) -> dict[str, Any]:
        """Return the document; the request id is added to every response, the rate limit to every response of `/v1`."""
        cached = self.openapi_schema
        document = super().openapi()
        if document is cached:
            return document
        for path, operations in document["paths"].items():
            headers = _REQUEST_ID | (_RATE_LIMIT if path.startswith("/v1/") else {})
            for operation in operations.values():
                for response in operation["responses"].values():
                    response["headers"] = response.get("headers", {}) | headers
        return document
