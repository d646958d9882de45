"""The JSON log: one object per line, with the fields of the text log."""

import json
import logging
import os

from app.logs import JsonFormatter


def as_json(message: object, *arguments: object, exc_info: BaseException | None = None) -> dict[str, object]:
    """Return the JSON line of one log call."""
    triple = None if exc_info is None else (type(exc_info), exc_info, exc_info.__traceback__)
    line = JsonFormatter().format(
        logging.LogRecord("worker.drain", logging.WARNING, __file__, 1, message, arguments, triple)
    )
    assert "\n" not in line
    return dict(json.loads(line))


def test_the_fields_of_an_event_keep_their_types() -> None:
    line = as_json("batch_saved adaptation=%s step=%d ms=%.1f", "adp_1", 3, 2.25)
    assert (line["event"], line["message"]) == ("batch_saved", "batch_saved adaptation=adp_1 step=3 ms=2.2")
    assert (line["adaptation"], line["step"], line["ms"]) == ("adp_1", 3, 2.25)
    assert (line["level"], line["logger"], line["pid"]) == ("WARNING", "worker.drain", os.getpid())
    assert str(line["ts"]).endswith("+00:00")


def test_fields_of_an_event_never_replace_standard_fields() -> None:
    line = as_json("step_failed running=%d %s", 2, "error=ValueError at=a.py:1>b.py:2")
    assert (line["running"], line["error"], line["at"]) == (2, "ValueError", "a.py:1>b.py:2")
    line = as_json('100%% of "%s" at level=%s', "a=b is text", "low")
    assert (line["message"], line["level"]) == ('100% of "a=b is text" at level=low', "WARNING")
    assert "a" not in line
    assert "event" not in line
    assert as_json("device_lost: %s", "error=X\nsays more")["event"] == "device_lost"
    assert as_json("given", {"a": 1})["message"] == "given"
    assert as_json(ValueError("no text"))["message"] == "no text"
    assert "ZeroDivisionError" in str(as_json("went wrong", exc_info=ZeroDivisionError("x"))["exception"])
