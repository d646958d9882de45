"""Limits on the texts of a request, which the settings decide and no schema can state."""

from app.errors import InvalidError
from app.settings import Settings


def check_input_count(settings: Settings, count: int, param: str) -> None:
    """Check the number of texts that one request asks to be answered.

    Raises:
        InvalidError: it has more than `max_predict_inputs`.
    """
    if count > settings.max_predict_inputs:
        message = f"at most {settings.max_predict_inputs} in one request, got {count}: send several requests"
        raise InvalidError(message, code="too_many_inputs", param=param)


def check_text_length(settings: Settings, text: str, param: str) -> None:
    """Check the length of a text.

    Raises:
        InvalidError: it has more than `max_text_chars` characters.
    """
    if len(text) > settings.max_text_chars:
        raise InvalidError(
            f"at most {settings.max_text_chars} characters, got {len(text)}", code="text_too_long", param=param
        )
