"""Reject a request that repeats a header which may occur only once."""

from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BadRequestError
from app.http.error_handlers import respond

# One of two values would be ignored silently, and a proxy in front may have used the other one.
_SINGLE = (b"authorization", b"content-length", b"content-type", b"idempotency-key", b"last-event-id")


class SingleHeaders:
    """ASGI middleware; it must run before anything that reads a header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            counts = Counter(name for name, _ in scope["headers"])
            repeated = next((name for name in _SINGLE if counts[name] > 1), None)
            if repeated is not None:
                message = f"this header was sent {counts[repeated]} times: send it once"
                error = BadRequestError(message, code="duplicate_header", param=repeated.decode())
                await respond(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
