"""Say what is probably wrong with text that is not JSON."""

from __future__ import annotations

import re

_SINGLE_QUOTED_KEY = re.compile(r"[\[{\s]*'")
_COMMENT = re.compile(r"\s*(?://|#|/\*)")
_COMMENT_AFTER = re.compile(r"[}\]][ \t,]*(?://|#|/\*)[^\"\]}]*\Z")
_NEXT_OBJECT = re.compile(r"\}\s*\{")
_PYTHON_VALUE = re.compile(r"[:\[,]\s*(?:None|True|False)\b")
_TRAILING_COMMA = re.compile(r",\s*[}\]]")


def explained(text: str, reason: str, *, at_end: bool = False) -> str:
    """Return the parser's reason, or a more likely one; `at_end`: the text ended where more was expected."""
    if _SINGLE_QUOTED_KEY.match(text):
        return "single quotes, as Python prints objects: write the file with json.dumps"
    if _COMMENT.match(text) or ("Extra data" in reason and _COMMENT_AFTER.search(text)):
        return "a comment, which JSON does not have: remove it"
    if "Extra data" in reason and _NEXT_OBJECT.search(text):
        return "two objects on a line: put each on a line of its own"
    if "Expecting value" in reason and _PYTHON_VALUE.search(text):
        return "None, True or False, as Python prints them: write the file with json.dumps"
    if "Extra data" in reason and text.rstrip().endswith(","):
        return "a comma after the object: remove it, or put all objects between [ and ]"
    if ("double quotes" in reason or "trailing comma" in reason) and _TRAILING_COMMA.search(text):
        return "a comma before the closing bracket: remove it"
    if at_end:
        return "the text ends within a value: is it cut off, or does it contain a line break?"
    return reason
