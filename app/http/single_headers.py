"""Refuse a request that says something twice which can be meant but once."""

from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BadRequestError
from app.http.error_handlers import respond

# Of two of them, one would win without a word, and a proxy in front may have gone by the other.
_SINGLE = (b"authorization", b"content-length", b"content-type", b"idempotency-key", b"last-event-id")


class SingleHeaders:
    """ASGI middleware; before all that reads a header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            times = Counter(name for name, _ in scope["headers"])
            twice = next((name for name in _SINGLE if times[name] > 1), None)
            if twice is not None:
                message = f"this header was sent {times[twice]} times: send it once"
                error = BadRequestError(message, code="duplicate_header", param=twice.decode())
                await respond(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
