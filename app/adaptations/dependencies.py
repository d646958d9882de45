"""Dependencies of the adaptation endpoints."""

from typing import Annotated

from fastapi import Depends, Request

from app.adaptations.event_stream import OpenStreams
from app.fairness.fair_pool import FairPool
from app.queue.wake import Waker


async def _streams(request: Request) -> OpenStreams:
    streams: OpenStreams = request.app.state.event_streams
    return streams


async def _waker(request: Request) -> Waker | None:
    waker: Waker | None = request.app.state.waker
    return waker


async def _creation_threads(request: Request) -> FairPool:
    threads: FairPool = request.app.state.creations
    return threads


OpenStreamsDep = Annotated[OpenStreams, Depends(_streams)]
WakerDep = Annotated[Waker | None, Depends(_waker)]
"""None without a broker."""
CreationThreadsDep = Annotated[FairPool, Depends(_creation_threads)]
