"""Give every request an id, add common response headers, log it, and catch unhandled errors."""

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
    """ASGI middleware; it must be the outermost, so that even a 500 has the JSON error body and a request id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        this_id = _request_id(scope)
        request_id.set(this_id)
        headers = {"x-request-id": this_id}
        # Available as `request.state.headers`: headers added there are sent with every response, errors included.
        scope.setdefault("state", {})["headers"] = headers
        status = 0
        start = time.monotonic()
        responded_at: float | None = None
        metrics.IN_FLIGHT.inc()

        async def send_with_headers(message: Message) -> None:
            nonlocal status, responded_at
            if message["type"] == "http.response.start":
                status, responded_at = message["status"], time.monotonic()
                added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            # Only the server cancels a request: one that still runs when the shutdown timeout is over, for example
            # because its body never ends. If the response has started, the server cuts it off.
            if not status:
                await respond(stopping_error())(scope, receive, send_with_headers)
        except Exception as error:
            log_unforeseen(error)
            if status:
                raise  # the response has started: the server has to close the connection
            await internal_error()(scope, receive, send_with_headers)
        finally:
            method, route, end = scope["method"], _route(scope), time.monotonic()
            metrics.IN_FLIGHT.dec()
            metrics.observe_request(method, route, status, (responded_at or end) - start)
            log.info(
                "request_served method=%s route=%s status=%d ms=%.1f request=%s",
                method,
                route,
                status,
                round(1000 * (end - start), 1),
                this_id,
            )


def _request_id(scope: Scope) -> str:
    """Return the caller's `x-request-id` if it has a safe form, otherwise a random id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ACCEPTABLE_ID.fullmatch(value):
            return str(value, "ascii")
    return f"req_{secrets.token_hex(12)}"


def _route(scope: Scope) -> str:
    """Return the route's pattern, not the path, which the caller chooses."""
    return getattr(scope.get("route"), "path", "none")
