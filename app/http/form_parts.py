"""The parts of a form, in the way of the framework, but for a form that was cut off: that one is none."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser


@asynccontextmanager
async def parts_of(request: Request, *, max_files: int, max_fields: int, max_part_size: int) -> AsyncIterator[FormData]:
    """The parts; their files are closed with the context.

    Raises:
        MultiPartException: it is no form, has more than it may, or does not end as a form does.
    """
    async with aclosing(request.stream()) as stream:
        limits = {"max_files": max_files, "max_fields": max_fields, "max_part_size": max_part_size}
        parts = await _WholeFormParser(request.headers, stream, **limits).parse()
    try:
        yield parts
    finally:
        await parts.close()


class _WholeFormParser(MultiPartParser):
    """The framework's parser hands out the parts that were complete, wherever a form ends."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: int) -> None:
        super().__init__(headers, self._to_the_end(stream), **limits)
        self._ended = False

    def on_end(self) -> None:
        self._ended = True

    async def _to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        # Raised while the framework still reads, and so closes the files that it has opened.
        if not self._ended:
            raise MultiPartException("it was cut off, before the boundary with -- behind it that ends a form")
