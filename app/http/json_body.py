"""Parse JSON bodies without keeping more values than any endpoint accepts."""

import gc
import json
from typing import Any

from fastapi import Request

from app.errors import BadRequestError, InvalidError
from app.http.dependencies import settings_of
from app.http.json_structure import DepthError, StructureError, check_structure

_VALUES_PER_ENTRY = 16
"""Values of a body for each entry that its list may have: far more than any entry has, so that a list that is somewhat
too long still gets the error of its endpoint."""


class JsonRequest(Request):
    """A request whose JSON body is parsed by `parsed`."""

    async def json(self) -> Any:
        """Return the body, its lists cut just above the largest length that is accepted.

        FastAPI turns the errors of `parsed` into the cause of an HTTPException.
        """
        if not hasattr(self, "_json"):
            settings = settings_of(self)
            self._json = parsed(await self.body(), max(settings.max_examples, settings.max_predict_inputs))
        return self._json


def parsed(body: bytes, most: int) -> Any:
    """Return the JSON value of `body`; each list of a top-level object is cut to `most + 1` elements.

    One element more than `most` is enough to reject the list. The event loop serves no other request while a body is
    parsed and validated, and a hostile body of 16 MB has millions of elements: it is rejected before it is parsed. The
    garbage collector is off meanwhile, because it would traverse all elements again and again. Parsing holds the
    interpreter lock, so no other thread allocates in this time.

    Raises:
        BadRequestError: the body is nested too deeply.
        InvalidError: it has far more values than any endpoint accepts.
    """
    text = body.decode(json.detect_encoding(body), "surrogatepass")
    try:
        check_structure(text, _VALUES_PER_ENTRY * most)
    except DepthError as error:
        raise BadRequestError(f"the body cannot be read as JSON: it is {error}", code="invalid_json") from error
    except StructureError as error:
        raise InvalidError(
            f"the body has {error}: the longest list that any request may have has {most:,} entries",
            code="too_many_values",
        ) from error
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            for value in content.values():
                if isinstance(value, list):
                    del value[most + 1 :]
    finally:
        if collecting:
            gc.enable()
    return content
