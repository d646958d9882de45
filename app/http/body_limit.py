"""Refuse a request body that is too large, or too slow, as soon as that is known, without holding it in memory."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooLargeError
from app.http.error_handlers import respond

# How long is waited for what has arrived already.
_LATE_SECONDS = 1.0


class BodyLimit:
    """ASGI middleware that counts the bytes as they come; a `content-length` can lie or be absent.

    The framework has such a limit too, but answers in plain text rather than in the agreed shape. It has none in time,
    and the server has one between requests alone.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.too_large = f"the body is larger than {max_bytes:,} bytes"
        self.too_slow = f"the body took longer than {max_seconds:g} s to arrive: send a smaller one, or send it faster"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            error = TooLargeError(self.too_large, code="body_too_large")
            await respond(error)(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        seen = 0
        deadline: float | None = None
        late = False
        whole = False

        # What it raises has the only base that FastAPI lets through.
        async def receive_bounded() -> Message:
            nonlocal seen, deadline, late, whole
            if whole:  # what comes now is the end of the connection, which is waited for as long as an answer takes
                return await receive()
            if deadline is None:
                deadline = clock() + self.max_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                if late:
                    raise HTTPException(408, self.too_slow) from None
                # This process may have been busy while the body came, which is not the sender's fault: look once more.
                deadline, late = clock() + _LATE_SECONDS, True
                return await receive_bounded()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise HTTPException(413, self.too_large)
            whole = not message.get("more_body", False)
            return message

        await self.app(scope, receive_bounded, send)
