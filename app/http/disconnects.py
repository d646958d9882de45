"""Cancel work for a client that has disconnected: the server reports a disconnect, but cancels nothing itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.errors import AppError

Result = TypeVar("Result")


class CallerGoneError(AppError):
    """The client has disconnected. No one reads the response; status 499 (as in nginx) is for the log and metrics."""

    status = 499
    type = "caller_gone_error"


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`, or cancel it as soon as the client disconnects. Read the body before.

    Raises:
        CallerGoneError: the client disconnected first.
    """
    result = asyncio.create_task(work)
    disconnect = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((result, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise CallerGoneError("the caller has disconnected", code="caller_gone")
        return result.result()
    finally:
        result.cancel()
        disconnect.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
