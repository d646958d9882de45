"""Reject a request body that is too large or arrives too slowly, without buffering it."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooLargeError
from app.http.error_handlers import respond

# Extra time after the deadline, for data that has arrived but was not read yet.
_GRACE_SECONDS = 1.0


class BodyLimit:
    """ASGI middleware that counts the bytes as they arrive, since `content-length` can be wrong or absent.

    Starlette's size limit responds in plain text instead of the JSON error body. Starlette has no time limit, and
    uvicorn's keep-alive timeout only covers the time between requests.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.too_large = f"the body is larger than {max_bytes:,} bytes: send a smaller one"
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
        grace = False
        complete = False

        # Raises HTTPException, the only error that FastAPI passes on while it reads a body.
        async def receive_bounded() -> Message:
            nonlocal seen, deadline, grace, complete
            if complete:  # the next message is the disconnect, which may take as long as the response does
                return await receive()
            if deadline is None:
                deadline = clock() + self.max_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                if grace:
                    raise HTTPException(408, self.too_slow) from None
                # The event loop may have been busy while the body arrived: read once more.
                deadline, grace = clock() + _GRACE_SECONDS, True
                return await receive_bounded()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise HTTPException(413, self.too_large)
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, receive_bounded, send)
