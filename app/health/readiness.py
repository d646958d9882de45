"""Asks the database whether it can serve, and takes silence for an answer."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db import migrate
from app.db.coalescer import Coalescer, CoalescerClosedError

ANSWER_SECONDS = 2.5
"""Within the patience of a probe, which is a few seconds."""
_TOGETHER = 1000

DatabaseState = Literal["ok", "pending", "unavailable"]


class Readiness:
    """Has a thread of its own, since those that answer requests may all be waiting for the database."""

    def __init__(self, engine: Engine) -> None:
        """Start the thread."""
        self._engine = engine
        self._asked: Coalescer[None, DatabaseState] = Coalescer(self._look, name="readiness", most=_TOGETHER)

    async def database(self) -> DatabaseState:
        """Whether the database answers (`unavailable` if not), and whether migrations are `pending`."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._asked.ask(None)), ANSWER_SECONDS)
        except (TimeoutError, SQLAlchemyError, CoalescerClosedError):
            return "unavailable"

    def close(self) -> None:
        """End the thread."""
        self._asked.close()

    def _look(self, asked: Sequence[None]) -> list[DatabaseState]:
        with self._engine.connect() as connection:
            state: DatabaseState = "pending" if migrate.pending(connection) else "ok"
        return [state] * len(asked)
