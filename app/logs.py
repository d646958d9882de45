"""Logging: one line per event, its name followed by `key=value` pairs; never a text of a tenant's dataset."""

import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.settings import LogFormat, unknown_variables

log = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(name)s pid=%(process)d %(message)s"
_EVENT = re.compile(r"[a-z]+(?:_[a-z]+)+(?![^\s:])")
_PLACEHOLDER = re.compile(r"%%|(?:\b(\w+)=)?%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")
_PAIRS = re.compile(r"\w+=\S+(?: \w+=\S+)*")


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line; the `key=value` pairs of an event become fields, with numbers as numbers."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line = _fields(record) | {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": message,
        }
        if event := _EVENT.match(message):
            line["event"] = event[0]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the arguments that the message names as `key=`, and the pairs in arguments such as `where(error)`."""
    if not isinstance(record.msg, str) or not isinstance(record.args, tuple):
        return {}
    fields: dict[str, Any] = {}
    names = [match[1] for match in _PLACEHOLDER.finditer(record.msg) if match[0] != "%%"]
    for name, value in zip(names, record.args, strict=False):
        if name is not None:
            fields[name] = value
        elif isinstance(value, str) and _PAIRS.fullmatch(value):
            fields |= dict(pair.split("=", 1) for pair in value.split(" "))
    return fields


def configure(log_format: LogFormat) -> None:
    """Send the log and Python's warnings to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


def warn_of_unknown_settings() -> None:
    """Warn of variables that look like settings but are not, since a misspelt variable has no effect."""
    for name in unknown_variables(os.environ):
        log.warning("unknown_setting name=%s: `ipt settings` lists all settings", name)


def where(error: BaseException) -> str:
    """Return the type of an error and the last lines of code that it passed through, as `key=value` pairs.

    The message is omitted, because the message of an unexpected error may quote a dataset's text.
    """
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = ">".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"error={type(error).__name__} at={places or 'unknown'}"
