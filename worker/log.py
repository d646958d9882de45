"""One line per event, `key=value` after the event's name; never a text of a tenant's dataset."""

import logging
import sys
import traceback
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s pid=%(process)d %(message)s"


def configure() -> None:
    """Write the log to standard error, as the processes of this package do."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def where(error: BaseException) -> str:
    """An error's type and the last places it came through.

    Its message is left out because that of an unforeseen error may quote what was being worked on.
    """
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = ">".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"error={type(error).__name__} at={places or 'unknown'}"
