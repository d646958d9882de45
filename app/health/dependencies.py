"""Dependencies of the health endpoints."""

from typing import Annotated

from fastapi import Depends, Request

from app.health.readiness import Readiness


async def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


ReadinessDep = Annotated[Readiness, Depends(_readiness)]
