"""Dependencies of the classification endpoint."""

from typing import Annotated

from fastapi import Depends, Request

from app.classifications.service import Classifications


async def _classifications(request: Request) -> Classifications:
    classifications: Classifications = request.app.state.classifications
    return classifications


ClassificationsDep = Annotated[Classifications, Depends(_classifications)]
