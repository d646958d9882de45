"""Parse JSON bodies without keeping lists that are longer than any endpoint accepts."""

import gc
import json
from typing import Any

from fastapi import Request

from app.http.dependencies import settings_of


class JsonRequest(Request):
    """A request whose JSON body is parsed by `parsed`."""

    async def json(self) -> Any:
        """Return the body, its lists cut just above the largest length that is accepted."""
        if not hasattr(self, "_json"):
            settings = settings_of(self)
            self._json = parsed(await self.body(), max(settings.max_examples, settings.max_predict_inputs))
        return self._json


def parsed(body: bytes, most: int) -> Any:
    """Return the JSON value of `body`; each list of a top-level object is cut to `most + 1` elements.

    One element more than `most` is enough to reject the list. The event loop serves no other request while a body is
    parsed and validated, and a hostile body of 16 MB has millions of elements. The garbage collector is off meanwhile,
    because it would traverse all of them again and again. Parsing holds the interpreter lock, so no other thread
    allocates in this time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(body)
        if isinstance(content, dict):
            for value in content.values():
                if isinstance(value, list):
                    del value[most + 1 :]
    finally:
        if collecting:
            gc.enable()
    return content
