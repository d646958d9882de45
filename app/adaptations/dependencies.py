"""Dependencies of the adaptation endpoints."""

from typing import Annotated

from fastapi import Depends, Request

from app.adaptations.event_stream import OpenStreams


async def _streams(request: Request) -> OpenStreams:
    streams: OpenStreams = request.app.state.event_streams
    return streams


OpenStreamsDep = Annotated[OpenStreams, Depends(_streams)]
