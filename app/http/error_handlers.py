"""Exception handlers: every error of a request becomes a JSON error body that quotes nothing of the request."""

import logging
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app.db.client_timeout import CommitUnknownError
from app.db.coalescer import CoalescerClosedError
from app.db.session import is_unavailable
from app.errors import (
    AppError,
    BadRequestError,
    InvalidError,
    UnavailableError,
    error_body,
    stopping_error,
    type_of_status,
)
from app.http.fields import is_field_name
from app.validation_messages import explain

log = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the current request."""

_DATABASE_RETRY_SECONDS = 2
_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "string_type": "not_text",
}
_OF_ANOTHER_TYPE = ("_type", "_parsing", "literal_error")
"""Ends of the error types of values whose type is not the expected one."""
# What is expected of a value that a client fills in by itself, as browsers do; by its location.
_EXPECTED = {("header", "last-event-id"): "the `seq` of the last event that you received"}


def install(app: FastAPI) -> None:
    """Register the handlers."""
    # A path with a trailing slash is unknown: a redirect would not have the JSON error body.
    app.router.redirect_slashes = False
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(CoalescerClosedError, _stopping)


def respond(error: AppError) -> JSONResponse:
    """Return the response for an error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error_body(error.message, type=error.type, code=error.code, param=error.param)
    return JSONResponse(body, status_code=error.status, headers=headers)


def internal_error() -> JSONResponse:
    """Return the response for an unexpected error."""
    body = error_body("internal error; the request id identifies it in the log", type="internal_error", code="internal")
    return JSONResponse(body, status_code=500)


def log_unforeseen(error: BaseException) -> None:
    """Log the type and traceback of an unexpected error, but not its message, which may quote a dataset's text."""
    frames: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    kind = f"{type(error).__module__}.{type(error).__name__}"
    log.error("unforeseen_error request=%s error=%s\n  %s", request_id.get(), kind, "\n  ".join(frames))


def _app_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppError)
    if error.status == 500:
        log_unforeseen(error.__cause__ or error)
    return respond(error)


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    first = errors[0]
    kind: str = first["type"]
    if kind == "json_invalid":
        text, position = error.body, first["loc"][-1]
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        reason = first["ctx"]["error"]
        message = f"the body is not valid JSON: at line {line}, column {column}: {reason[0].lower()}{reason[1:]}"
        return respond(BadRequestError(message, code="invalid_json"))
    param = _param(first["loc"])
    message = ", or ".join(dict.fromkeys(map(explain, _of_same_type(errors, param))))
    if first["loc"][:2] in _EXPECTED:
        message = f"{message}: send {_EXPECTED[first['loc'][:2]]}"
    if first["loc"] == ("body",):
        expected = "send a JSON object, with content-type: application/json"
        message = f"the body is empty; {expected}" if kind == "missing" else f"the body {message}"
        if "json" not in request.headers.get("content-type", ""):
            return respond(BadRequestError(message if kind == "missing" else expected, code="not_json"))
    return respond(InvalidError(message, code=_CODES.get(kind, "invalid_value"), param=param))


def _of_same_type(errors: Sequence[Any], param: str | None) -> list[Any]:
    """Return the errors of a field that help the caller.

    A field of a union type has one error per member. That it may be null does not help, and neither do members of
    other types than the value's if one of the same type says what is wrong.
    """
    members = [each for each in errors if _param(each["loc"]) == param and each["type"] != "none_required"]
    return [each for each in members if not each["type"].endswith(_OF_ANOTHER_TYPE)] or members


def _param(location: Sequence[Any]) -> str | None:
    """Return a location such as `("body", "examples", 3, "output")` as a path, `examples[3].output`.

    The path ends before the first part that does not look like a field name: the caller made it up, or it is
    Pydantic's name for a member of a union.
    """
    where, *parts = location
    if where != "body":
        return str(parts[0])
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif is_field_name(part):
            path += ("." if path else "") + part
        else:
            break
    return path or None


def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, AppError):  # raised while FastAPI read the body
        return _app_error(request, error.__cause__)
    if isinstance(error.__cause__, RequestValidationError):  # of a large body
        return _validation_error(request, error.__cause__)
    code, message = {
        404: ("route_not_found", "unknown path; see /docs"),
        405: ("method_not_allowed", f"this path does not accept {request.method}"),
        # FastAPI raises 400 for a body that it cannot decode.
        400: ("invalid_json", f"the body cannot be read as JSON: it {_unreadable(error.__cause__)}"),
        408: ("body_too_slow", str(error.detail)),
        413: ("body_too_large", str(error.detail)),
    }.get(error.status_code, ("http_error", str(error.detail)))
    body = error_body(message, type=type_of_status(error.status_code), code=code)
    headers = error.headers
    if error.status_code == 405:
        # Each method of a path has its own route, and Starlette names the methods of the first one only.
        methods = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None))
        headers = {"Allow": ", ".join(methods).upper()} if methods else headers
    return JSONResponse(body, status_code=error.status_code, headers=headers)


def _unreadable(cause: BaseException | None) -> str:
    match cause:
        case UnicodeDecodeError():
            return f"is not {cause.encoding.upper()}, from byte {cause.start + 1} on"
        case ValueError():  # Python limits the digits of an integer
            return "has a number with too many digits"
        case _:
            return "was cut off"


def _stopping(_: Request, __: Exception) -> JSONResponse:
    return respond(stopping_error())


def _database_error(request: Request, error: Exception) -> JSONResponse:
    if not is_unavailable(error):
        log_unforeseen(error)
        return internal_error()
    cause = getattr(error, "orig", None) or error
    kind, sqlstate = type(cause).__name__, getattr(cause, "sqlstate", None)
    log.error("database_unavailable request=%s error=%s sqlstate=%s", request_id.get(), kind, sqlstate)
    if isinstance(cause, CommitUnknownError) and request.method != "GET":
        return respond(_outcome_unknown())
    return respond(database_unavailable())


def _outcome_unknown() -> UnavailableError:
    return UnavailableError(
        "the database was lost while it saved this request, so the outcome is unknown: send the request again with the "
        "same Idempotency-Key, or look for what it creates in the list (GET); repeat a cancel or a deletion",
        code="outcome_unknown",
        retry_after=_DATABASE_RETRY_SECONDS,
    )


def database_unavailable() -> UnavailableError:
    """Return the error for requests that fail because the database is unavailable."""
    return UnavailableError(
        "the database is unavailable right now; nothing was saved, try again",
        code="database_unavailable",
        retry_after=_DATABASE_RETRY_SECONDS,
    )
