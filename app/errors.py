"""The service's errors: each carries its HTTP status and code, and all share one JSON shape."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    message: str = Field(description="what was wrong, what was expected and what to do; for people, and may change")
    type: str = Field(description="the family of the error; one for each status")
    param: str | None = Field(description="the field, parameter or header that caused the error")
    code: str = Field(description="what went wrong, for programs; stable")


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetail = Field(
        examples=[
            {
                "message": "there is no task tsk_0000",
                "type": "not_found_error",
                "param": "task_id",
                "code": "task_not_found",
            }
        ]
    )


class AppError(Exception):
    """An error that is reported to the caller. The message must never quote a text of a dataset."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after


class BadRequestError(AppError):
    status = 400
    type = "invalid_request_error"


class AuthenticationError(AppError):
    status = 401
    type = "authentication_error"


class PermissionDeniedError(AppError):
    status = 403
    type = "permission_error"


class NotFoundError(AppError):
    status = 404
    type = "not_found_error"


class TooSlowError(AppError):
    status = 408
    type = "timeout_error"


class ConflictError(AppError):
    status = 409
    type = "conflict_error"


class TooLargeError(AppError):
    status = 413
    type = "too_large_error"


class UnsupportedMediaError(AppError):
    status = 415
    type = "unsupported_media_error"


class InvalidError(AppError):
    status = 422
    type = "validation_error"


class BusyError(AppError):
    status = 429
    type = "rate_limit_error"


class HeadTooLargeError(AppError):
    status = 431
    type = "head_too_large_error"


class UnavailableError(AppError):
    status = 503
    type = "unavailable_error"


def stopping_error() -> UnavailableError:
    """Return the error for requests that the service cannot finish because it is stopping."""
    return UnavailableError("the service is stopping; try again", code="stopping", retry_after=5)


def out_of_memory_error(advice: str = "") -> UnavailableError:
    """Return the error for a text that does not fit into the device's memory, even in a batch of its own."""
    return UnavailableError(
        f"not enough memory for this text right now; try again{advice}", code="out_of_memory", retry_after=5
    )


_FAMILIES: tuple[type[AppError], ...] = (
    BadRequestError,
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    TooSlowError,
    ConflictError,
    TooLargeError,
    UnsupportedMediaError,
    InvalidError,
    BusyError,
    HeadTooLargeError,
    UnavailableError,
)
_TYPE_OF_STATUS = {family.status: family.type for family in _FAMILIES} | {405: "method_not_allowed_error"}


def type_of_status(status: int) -> str:
    """Return the `type` of an HTTP status, including statuses that only the framework raises."""
    return _TYPE_OF_STATUS.get(status, "internal_error" if status >= 500 else "invalid_request_error")


def error_body(message: str, *, type: str, code: str, param: str | None = None) -> dict[str, Any]:  # noqa: A002
    """Return the body of an error response as plain JSON."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def documented(families: Sequence[type[AppError]]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of an endpoint that may raise these errors."""
    retry = {"description": "seconds to wait before trying again", "schema": {"type": "integer"}}
    documentation: dict[int | str, dict[str, Any]] = {}
    for family in families:
        entry: dict[str, Any] = {"model": ErrorBody, "description": family.type.replace("_", " ")}
        if family in (BusyError, UnavailableError):
            entry["headers"] = {"Retry-After": retry}
        if family is AuthenticationError:
            entry["headers"] = {"WWW-Authenticate": {"description": "always `Bearer`", "schema": {"type": "string"}}}
        documentation[family.status] = entry
    return documentation
