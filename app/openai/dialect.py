"""Status codes, error types and headers as OpenAI's clients expect them, for all responses below `/openai/v1`."""

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ErrorBody

PREFIX = "/openai/v1"

_INVALID_REQUEST = "invalid_request_error"
# OpenAI's API reports every invalid request as 400, and its client retries a 409 by itself.
_STATUSES = {409: 400, 422: 400}
_TYPES = {429: "rate_limit_error"}
_CODES = {"api_key_missing": "invalid_api_key", "api_key_unknown": "invalid_api_key"}
# A retry within seconds gets the same answer, or creates the same object twice.
_FINAL_CODES = {"too_many_adaptations", "too_many_files", "too_many_batches", "outcome_unknown"}
_FINAL_CODES |= {"prediction_failed", "generation_failed", "model_failed"}
_NOT_SUPPORTED = (
    "this path is not supported: the service has files, fine_tuning/jobs, models, chat/completions, completions, "
    "embeddings, batches and webhook_endpoints of OpenAI's API (docs/openai.md)"
)
_RATE_LIMIT_HEADERS = {
    "RateLimit-Limit": "x-ratelimit-limit-requests",
    "RateLimit-Remaining": "x-ratelimit-remaining-requests",
}

_TEXT = {"type": "string"}
HEADERS: dict[str, Any] = {
    "openai-processing-ms": {"description": "milliseconds until the response began", "schema": {"type": "integer"}},
    **{
        name: {"description": "as the RateLimit header of the same meaning", "schema": _TEXT}
        for name in (*_RATE_LIMIT_HEADERS.values(), "x-ratelimit-reset-requests")
    },
}
"""The OpenAPI entries of the headers that every response below `PREFIX` may have."""

RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "model": ErrorBody,
        "description": "an error: 400 if the request is invalid, otherwise the status that the service's own API has",
        "headers": {
            "Retry-After": {"description": "seconds to wait before trying again", "schema": {"type": "integer"}},
            "Allow": {"description": "the methods of the path, with status 405", "schema": _TEXT},
            "WWW-Authenticate": {"description": "`Bearer`, with status 401", "schema": _TEXT},
            "x-should-retry": {"description": "`false` if a retry would get the same answer", "schema": _TEXT},
        },
    }
}
"""The OpenAPI entry of the errors of every route below `PREFIX`."""


class OpenAIDialect:
    """ASGI middleware that rewrites error responses, which other middleware sends too, and adds OpenAI's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
        common: dict[str, str] = scope["state"]["headers"]
        error_start: Message | None = None
        error_body = b""

        async def send_translated(message: Message) -> None:
            nonlocal error_start, error_body
            if message["type"] == "http.response.start":
                common["openai-processing-ms"] = str(round(1000 * (time.monotonic() - start)))
                _add_rate_limit(common)
                if message["status"] >= 400:
                    error_start = message
                    return
            elif error_start is not None:
                error_body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                status, headers, body = _translated(error_start["status"], error_start["headers"], error_body)
                await send({**error_start, "status": status, "headers": headers})
                message = {**message, "body": body}
            await send(message)

        await self.app(scope, receive, send_translated)


def openai_error(status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the body that OpenAI's API would send for an error of this service."""
    error = body["error"]
    if error["code"] == "route_not_found":
        error = {**error, "message": _NOT_SUPPORTED}
    status = _STATUSES.get(status, status)
    error_type = "server_error" if status >= 500 else _TYPES.get(status, _INVALID_REQUEST)
    return status, {"error": {**error, "type": error_type, "code": _CODES.get(error["code"], error["code"])}}


def _translated(
    status: int, headers: list[tuple[bytes, bytes]], content: bytes
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    original: dict[str, Any] = json.loads(content)
    status, body = openai_error(status, original)
    content = json.dumps(body, ensure_ascii=False).encode()
    headers = [(name, value) for name, value in headers if name != b"content-length"]
    headers.append((b"content-length", str(len(content)).encode()))
    if original["error"]["code"] in _FINAL_CODES:
        headers.append((b"x-should-retry", b"false"))
    return status, headers, content


def _add_rate_limit(headers: dict[str, str]) -> None:
    if "RateLimit-Limit" not in headers:
        return
    for name, openai_name in _RATE_LIMIT_HEADERS.items():
        headers[openai_name] = headers[name]
    headers["x-ratelimit-reset-requests"] = f"{headers['RateLimit-Reset']}s"
