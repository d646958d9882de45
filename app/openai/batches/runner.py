"""Answer the requests of batches in this process, behind the requests of callers who wait.

A turn claims one batch for a piece of its requests, answers them, stores the responses, and releases the batch. If the
process dies meanwhile, the lease expires, and another turn answers the same piece again.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.file_models import Batch, BatchRequestRow
from app.db.session import transaction
from app.fairness.background import Foreground
from app.http.error_handlers import log_unforeseen
from app.openai.batches import repository, service
from app.openai.batches.answering import BatchAnswering
from app.openai.batches.repository import Answered

log = logging.getLogger(__name__)

PIECE = 16
"""Requests of one turn: few, because callers wait for the turn that has begun."""
LEASE_SECONDS = 60.0
POLL_SECONDS = 2.0
"""How often an idle process looks for batches; a process that creates a batch looks at once."""
_RETRY_SECONDS = 5.0


class BatchRunner:
    """A task of the event loop that answers batches until it is cancelled."""

    def __init__(self, engine: Engine, foreground: Foreground, answering: BatchAnswering) -> None:
        self._engine = engine
        self._foreground = foreground
        self._answering = answering
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Look for batches now; any thread may call it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Take turns forever."""
        self._loop = asyncio.get_running_loop()
        while True:
            pause = POLL_SECONDS
            try:
                if await self._take_turn():
                    continue
            except SQLAlchemyError as error:
                log.warning("batches pause: %s", type(error).__name__)
                pause = _RETRY_SECONDS
            except Exception as error:  # noqa: BLE001 - the task must survive any failure of a turn
                log_unforeseen(error)
                pause = _RETRY_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)
            self._news.clear()

    async def _take_turn(self) -> bool:
        """Answer a piece of the next batch; return whether there was one and all of the piece was answered."""
        await self._foreground.background_turn()
        claimed = await run_in_threadpool(self._claim)
        if claimed is None:
            return False
        batch, requests = claimed
        answers: list[Answered] = []
        try:
            answers = await self._answering.answer(batch, requests)
        finally:
            await run_in_threadpool(self._store, batch, answers)
        return len(answers) == len(requests)

    def _claim(self) -> tuple[Batch, Sequence[BatchRequestRow]] | None:
        with transaction(self._engine) as session:
            batch = repository.claim(session, LEASE_SECONDS)
            if batch is None:
                return None
            over = batch.state == "cancelling" or repository.has_expired(session, batch)
            return batch, [] if over else repository.unanswered(session, batch.id, PIECE)

    def _store(self, claimed: Batch, answers: Sequence[Answered]) -> None:
        """Store the responses and end the lease; finish the batch if nothing is left to answer."""
        with transaction(self._engine, [claimed.tenant_id]) as session:
            batch = repository.lock_leased(session, claimed)
            if batch is None:
                return
            repository.store(session, batch, answers)
            over = batch.state == "cancelling" or repository.has_expired(session, batch)
            if over or batch.completed + batch.failed == batch.total:
                service.finish(session, batch)
            else:
                repository.release(batch)
