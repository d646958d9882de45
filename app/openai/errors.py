"""Errors about models that several resources raise."""

from app.errors import NotFoundError


def model_not_found(advice: str) -> NotFoundError:
    """Return the error for a model that does not exist, or that cannot do what a request needs."""
    return NotFoundError(f"there is no such model: {advice}", code="model_not_found", param="model")
