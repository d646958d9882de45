"""Checks the database within a time limit: no answer counts as unavailable."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db import migrate
from app.db.coalescer import Coalescer, CoalescerClosedError
from app.db.migrate import SchemaState
from app.subspaces.coverage import Coverage
from app.subspaces.repository import Unanswerable

ANSWER_SECONDS = 2.5
"""Time limit of a check; shorter than the timeout of a probe, which is a few seconds."""
_PROBES_PER_CHECK = 1000

DatabaseState = SchemaState | Literal["unavailable"]


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """The state of the database, and what no subspace of this process can answer, if the state is `ok`."""

    state: DatabaseState
    unanswerable: Unanswerable | None = None


class Readiness:
    """Checks the database in a thread of its own, since all threads of the pool may be waiting for the database."""

    def __init__(self, engine: Engine, coverage: Coverage) -> None:
        """Start the thread."""
        self._engine = engine
        self._coverage = coverage
        self._probes: Coalescer[None, DatabaseCheck] = Coalescer(self._check, name="readiness", most=_PROBES_PER_CHECK)

    async def database(self) -> DatabaseCheck:
        """Return `unavailable` if the database does not answer, otherwise the state of its schema."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._probes.ask(None)), ANSWER_SECONDS)
        except (TimeoutError, SQLAlchemyError, CoalescerClosedError):
            return DatabaseCheck("unavailable")

    def close(self) -> None:
        """End the thread."""
        self._probes.close()

    def _check(self, probes: Sequence[None]) -> list[DatabaseCheck]:
        with self._engine.connect() as connection:
            state = migrate.schema_state(connection)
        check = DatabaseCheck(state, self._coverage.unanswerable() if state == "ok" else None)
        return [check] * len(probes)
