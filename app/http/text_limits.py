"""Limits on the texts of a request, which the settings decide and no schema can state."""

from app.errors import InvalidError
from app.settings import Settings


def check_input_count(settings: Settings, count: int, param: str) -> None:
    """Reject more texts to answer than one request may have."""
    if count > settings.max_predict_inputs:
        raise InvalidError(f"at most {settings.max_predict_inputs} at a time", code="too_many_inputs", param=param)


def check_text_length(settings: Settings, text: str, param: str) -> None:
    """Reject a text longer than any text may be."""
    if len(text) > settings.max_text_chars:
        raise InvalidError(
            f"at most {settings.max_text_chars} characters, got {len(text)}", code="text_too_long", param=param
        )
