"""Outcomes of adaptations, kept in memory until the database has stored them."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError, StatementError
from sqlalchemy.orm import Session

import ipt
from app.db.session import is_unavailable, transaction
from app.errors import ErrorDetail
from app.logs import where
from app.queue import lifecycle
from app.queue.lifecycle import Lease
from worker import failures, metrics

log = logging.getLogger(__name__)

# How long an ending worker tries to store its outcomes. After that, expired leases bring the adaptations back.
_LAST_STORE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an adaptation left the batch. Storing it twice is harmless: it is a compare-and-set on the lease."""

    name: str
    lease: Lease
    store: Callable[[Session], bool]


class Outcomes:
    """A first-in, first-out queue of outcomes that the database does not have yet."""

    def __init__(self, database: Engine, max_attempts: int) -> None:
        self._database = database
        self._max_attempts = max_attempts
        self._pending: list[_Outcome] = []

    def __len__(self) -> int:
        return len(self._pending)

    def succeed(self, lease: Lease, task: ipt.AdaptedTask, start: int | None) -> None:
        """Store a task version."""
        self._add("succeeded", lease, partial(lifecycle.succeed, lease=lease, task=task, start=start))

    def fail(self, lease: Lease, error: ErrorDetail) -> None:
        """Fail without another attempt."""
        self._add("failed", lease, partial(lifecycle.fail, lease=lease, error=error))

    def retry(self, lease: Lease, error: Exception) -> None:
        """Requeue after a failed attempt, or fail after the last one."""
        last_error = failures.last_attempt_failed(error)
        self._add(
            "retried", lease, partial(lifecycle.retry, lease=lease, max_attempts=self._max_attempts, error=last_error)
        )

    def cancel(self, lease: Lease) -> None:
        """Finish a cancellation that was requested."""
        self._add("cancelled", lease, partial(lifecycle.cancel_running, lease=lease))

    def release(self, lease: Lease, *, reason: str, step: int, checkpoint: bytes | None) -> None:
        """Requeue without counting the attempt."""
        store = partial(lifecycle.release, lease=lease, reason=reason, step=step, checkpoint=checkpoint)
        self._add("handed_back", lease, store)

    def _add(self, name: str, lease: Lease, store: Callable[[Session], bool]) -> None:
        self._pending.append(_Outcome(name, lease, store))

    def store(self) -> None:
        """Store every pending outcome, in order.

        Raises:
            SQLAlchemyError: the database is unavailable; the outcomes not yet stored stay pending.
        """
        while self._pending:
            outcome = self._pending[0]
            try:
                with transaction(self._database) as session:
                    stored = outcome.store(session)
            except StatementError as error:
                if is_unavailable(error):
                    raise
                # The database is available and rejects this outcome. Kept, the outcome would block all later ones.
                adaptation_id = outcome.lease.adaptation_id
                log.error("outcome_refused adaptation=%s outcome=%s %s", adaptation_id, outcome.name, where(error))
                del self._pending[0]
                if outcome.name != "failed":
                    self.fail(outcome.lease, failures.INTERNAL)
                continue
            del self._pending[0]
            record(outcome.lease, outcome.name, stored=stored)

    def store_before_exit(self) -> None:
        """Store every pending outcome, or give up after a few seconds and leave the adaptations to the reaper."""
        deadline = time.monotonic() + _LAST_STORE_SECONDS
        while self._pending:
            try:
                self.store()
            except SQLAlchemyError as error:
                if time.monotonic() > deadline:
                    log.error("left_to_the_reaper adaptations=%d %s", len(self._pending), where(error))
                    self._pending.clear()
                    return
                time.sleep(0.2)


def record(lease: Lease, outcome: str, *, stored: bool) -> None:
    """Log and count an outcome, or a lost lease if the outcome was not stored."""
    if stored:
        metrics.count_outcome(outcome, time.monotonic() - lease.claimed_at)
        log.info("adaptation_%s adaptation=%s", outcome, lease.adaptation_id)
    else:
        metrics.LEASES_LOST.inc()
        log.warning("lease_lost adaptation=%s discarded=%s", lease.adaptation_id, outcome)
