"""Reject a compressed request body, which would otherwise be reported as text that is not JSON."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import UnsupportedMediaError
from app.http.error_handlers import respond


class PlainBodies:
    """ASGI middleware that accepts only bodies without a content encoding."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            encodings = [value.strip().lower() for name, value in scope["headers"] if name == b"content-encoding"]
            if any(encoding not in (b"", b"identity") for encoding in encodings):
                message = (
                    "compressed bodies are not supported: send the body as it is; to send less, compress the file of a "
                    "form with gzip"
                )
                error = UnsupportedMediaError(message, code="content_encoding_not_supported", param="content-encoding")
                await respond(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
