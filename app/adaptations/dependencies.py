"""Dependencies of the adaptation endpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.adaptations.event_stream import OpenStreams
from app.db.dependencies import OpenTransaction, TransactionDep
from app.fairness.fair_pool import FairPool
from app.queue.wake import Waker


async def _streams(request: Request) -> OpenStreams:
    streams: OpenStreams = request.app.state.event_streams
    return streams


async def _queueing(request: Request, transaction: TransactionDep) -> OpenTransaction:
    waker: Waker | None = request.app.state.waker  # None without a broker

    @contextmanager
    def committed_before_wake() -> Iterator[Session]:
        with transaction() as session:
            yield session
        if waker is not None:
            waker.wake()

    return committed_before_wake


async def _creation_threads(request: Request) -> FairPool:
    threads: FairPool = request.app.state.creations
    return threads


OpenStreamsDep = Annotated[OpenStreams, Depends(_streams)]
QueueingDep = Annotated[OpenTransaction, Depends(_queueing)]
"""Opens a transaction that queues an adaptation, and wakes a worker once it is committed."""
CreationThreadsDep = Annotated[FairPool, Depends(_creation_threads)]
