"""Notice that a caller has gone: the server says so to whoever asks, and cancels nothing by itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.errors import AppError

Answer = TypeVar("Answer")


class CallerGoneError(AppError):
    """Nobody reads this answer; it is for the log and the metrics, by the status that other servers use as well."""

    status = 499
    type = "caller_gone_error"


async def unless_gone(request: Request, answering: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer, or no further work on it once the caller has gone. The body has been read.

    Raises:
        CallerGoneError: the connection was closed first.
    """
    answer = asyncio.create_task(answering)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise CallerGoneError("the caller has gone", code="caller_gone")
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
