"""Parse and validate JSON bodies, large ones outside of the event loop and without too many values."""

import gc
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from app.errors import BadRequestError, InvalidError
from app.fairness.fair_pool import FairPool
from app.http.dependencies import settings_of
from ipt.data.json_structure import DepthError, StructureError, check_structure

_VALUES_PER_ENTRY = 16
"""Values that a body may have for each allowed list entry. No entry has nearly as many, so the endpoint itself still
rejects a list that is only somewhat too long."""
LARGE_BYTES = 64 * 1024
"""Bytes of a body above which it is parsed and validated outside of the event loop: both take milliseconds."""


class BodyField(Protocol):
    """The part of FastAPI's field of a body that validates."""

    def validate(
        self, value: Any, values: dict[str, Any], *, loc: tuple[int | str, ...]
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Return the body and no errors, or None and the errors."""
        ...


class JsonRequest(Request):
    """An admitted request whose JSON body is parsed by `parse_json`, and validated with it if it is large."""

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        field: BodyField | None,
    ) -> None:
        """Take the field of the endpoint's body; None: FastAPI validates the body in any case."""
        super().__init__(scope, receive)
        self._field = field

    async def json(self) -> Any:
        """Return the body, with lists cut just above the largest length that any endpoint accepts.

        A large body is validated already; FastAPI takes it as it is. FastAPI raises an HTTPException whose cause is the
        error of `parse_json`, or the RequestValidationError of a large body.
        """
        if not hasattr(self, "_json"):
            settings, body = settings_of(self), await self.body()
            max_entries = max(settings.max_examples, settings.max_predict_inputs)
            if len(body) <= LARGE_BYTES:
                self._json = parse_json(body, max_entries)
            else:
                parsing: FairPool = self.app.state.parsing
                self._json = await parsing.run(
                    self.state.caller.tenant_id, len(body), lambda: self._validated(parse_json(body, max_entries))
                )
        return self._json

    def _validated(self, content: Any) -> Any:
        if self._field is None:
            return content
        value, errors = self._field.validate(content, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors)
        return value


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
