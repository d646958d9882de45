"""Give every request an id and its answer headers, log it, and catch what no handler caught."""

import asyncio
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import stopping_error
from app.http import metrics
from app.http.error_handlers import internal_error, log_unforeseen, request_id, respond

log = logging.getLogger(__name__)

_ACCEPTABLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestContext:
    """ASGI middleware; must be the outermost, so that even a 500 goes out in the agreed shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own_id = _request_id(scope)
        request_id.set(own_id)
        headers = {"x-request-id": own_id}
        # As `request.state.headers`, to which others add what any answer to this request has to carry.
        scope.setdefault("state", {})["headers"] = headers
        status = 0
        start = time.monotonic()
        answered_at: float | None = None
        metrics.IN_FLIGHT.inc()

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered_at
            if message["type"] == "http.response.start":
                status, answered_at = message["status"], time.monotonic()
                own = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # Only the server does this, to what has not ended long after it was told to stop: a body that does not
            # come to its end, say. An answer that is half out is cut off by the server.
            if not status:
                await respond(stopping_error())(scope, receive, send_with_id)
        except Exception as error:
            log_unforeseen(error)
            if status:
                raise  # half an answer is out: the server has to cut the connection
            await internal_error()(scope, receive, send_with_id)
        finally:
            method, route, end = scope["method"], _route(scope), time.monotonic()
            metrics.IN_FLIGHT.dec()
            metrics.answered(method, route, status, (answered_at or end) - start)
            log.info(
                "request_served method=%s route=%s status=%d ms=%.1f request=%s",
                method,
                route,
                status,
                round(1000 * (end - start), 1),
                own_id,
            )


def _request_id(scope: Scope) -> str:
    """The caller's own `x-request-id` where it is harmless, a random one otherwise."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ACCEPTABLE_ID.fullmatch(value):
            return str(value, "ascii")
    return f"req_{secrets.token_hex(12)}"


def _route(scope: Scope) -> str:
    """The route's pattern rather than the path, which is the caller's text."""
    return getattr(scope.get("route"), "path", "none")
