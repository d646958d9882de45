"""Errors about models that several resources raise."""

from app.errors import ConflictError, NotFoundError

_NO_ANSWER_CODES = ("task_not_found", "task_not_ready")


def model_not_found(name: str, advice: str) -> NotFoundError:
    """Return the error for a model that does not exist, or that cannot do what a request needs."""
    return NotFoundError(f"the model {name!r} does not exist: {advice}", code="model_not_found", param="model")


def as_model_error(name: str, error: NotFoundError | ConflictError) -> NotFoundError | ConflictError:
    """Return the error of a missing task as that of a missing model; other errors stay as they are."""
    return model_not_found(name, "see GET /openai/v1/models") if error.code in _NO_ANSWER_CODES else error
