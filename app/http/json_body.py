"""Parse JSON bodies without keeping more values than any endpoint accepts."""

import gc
import json
from functools import partial
from typing import Any

from fastapi import Request

from app.errors import BadRequestError, InvalidError
from app.fairness.fair_pool import FairPool
from app.http.dependencies import settings_of
from ipt.data.json_structure import DepthError, StructureError, check_structure

_VALUES_PER_ENTRY = 16
"""Values that a body may have for each allowed list entry. No entry has nearly as many, so the endpoint itself still
rejects a list that is only somewhat too long."""
LARGE_BYTES = 64 * 1024
"""Bytes of a body above which it is parsed outside of the event loop, which takes more than a millisecond."""


class JsonRequest(Request):
    """An admitted request whose JSON body is parsed by `parse_json`."""

    async def json(self) -> Any:
        """Return the body, with lists cut just above the largest length that any endpoint accepts.

        FastAPI raises an HTTPException whose cause is the error of `parse_json`.
        """
        if not hasattr(self, "_json"):
            settings, body = settings_of(self), await self.body()
            parse = partial(parse_json, body, max(settings.max_examples, settings.max_predict_inputs))
            if len(body) <= LARGE_BYTES:
                self._json = parse()
            else:
                parsing: FairPool = self.app.state.parsing
                self._json = await parsing.run(self.state.caller.tenant_id, len(body), parse)
        return self._json


def parse_json(body: bytes, max_entries: int) -> Any:
    """Return the JSON value of `body`; each list of a top-level object is cut to `max_entries + 1` elements.

    One element more than `max_entries` is enough to reject the list. The parser holds the interpreter lock, and a
    hostile body of 16 MB has millions of elements: it is rejected before it is parsed. The garbage collector is off
    meanwhile, because it would traverse all elements again and again.

    Raises:
        BadRequestError: the body is nested too deeply.
        InvalidError: it has far more values than any endpoint accepts.
    """
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    try:
        check_structure(text, _VALUES_PER_ENTRY * max_entries)
    except DepthError as error:
        raise BadRequestError(f"the body cannot be read as JSON: it is {error}", code="invalid_json") from error
    except StructureError as error:
        raise InvalidError(
            f"the body has {error}: no list of a request may have more than {max_entries:,} entries",
            code="too_many_values",
        ) from error
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            for value in content.values():
                if isinstance(value, list):
                    del value[max_entries + 1 :]
    finally:
        if collecting:
            gc.enable()
    return content
