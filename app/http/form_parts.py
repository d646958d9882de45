"""Parse a multipart form and reject one that was cut off, which Starlette would accept."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser


@asynccontextmanager
async def parts_of(request: Request, *, max_files: int, max_fields: int, max_part_size: int) -> AsyncIterator[FormData]:
    """Yield the parts of the request's form; leaving the context closes their files.

    Raises:
        MultiPartException: the body is not a form, exceeds a limit, or ends before the closing boundary.
    """
    async with aclosing(request.stream()) as stream:
        limits = {"max_files": max_files, "max_fields": max_fields, "max_part_size": max_part_size}
        parts = await _WholeFormParser(request.headers, stream, **limits).parse()
    try:
        yield parts
    finally:
        await parts.close()


class _WholeFormParser(MultiPartParser):
    """A parser that requires the closing boundary; Starlette's returns the parts that were complete before a cut."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: int) -> None:
        super().__init__(headers, self._check_end(stream), **limits)
        self._ended = False

    def on_end(self) -> None:
        self._ended = True

    async def _check_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        # Raised while Starlette still reads: it then closes the files that it has opened.
        if not self._ended:
            raise MultiPartException("it was cut off before the closing boundary")
