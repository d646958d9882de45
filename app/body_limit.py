"""Refuse a request body that is too large as soon as that is known, without holding it in memory."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.error_handlers import respond
from app.errors import TooLargeError


class BodyLimit:
    """ASGI middleware that counts the bytes as they come; a `content-length` can lie or be absent.

    The framework has such a limit too, but answers in plain text rather than in the agreed shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.message = f"the body is larger than {max_bytes:,} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            error = TooLargeError(self.message, code="body_too_large")
            await respond(error)(scope, receive, send)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise HTTPException(413, self.message)  # the only base that FastAPI lets through
            return message

        await self.app(scope, receive_counted, send)
