"""Counts predictions in memory, and adds the counts to the database a few times a minute."""

import logging
import threading
import time
from collections.abc import Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import ipt
from app.db.periodic_writer import WRITE_SECONDS, PeriodicWriter
from app.db.session import transaction
from app.usage import repository
from app.usage.repository import HOUR_SECONDS, Count, Counter

MAX_COUNTERS = 100_000
"""Most counters in memory while the database is unreachable; predictions that would need another are not counted."""

log = logging.getLogger(__name__)


class UsageRecorder:
    """Counts of the predictions of this process; a process that is killed loses those of the last seconds."""

    def __init__(self, engine: Engine, write_seconds: float = WRITE_SECONDS) -> None:
        """Start the thread that writes to the database every `write_seconds`."""
        self._engine = engine
        self._counts: dict[Counter, Count] = {}
        self._dropped = 0
        self._lock = threading.Lock()
        self._pruned_hour = 0
        self._writer = PeriodicWriter("usage", self.flush, write_seconds)

    def record(self, keys: Sequence[tuple[str, int]], predictions: Sequence[ipt.Prediction]) -> None:
        """Count predictions by the task and version that answered each; never waits for the database.

        A prediction of several labels counts for each of them, and one of none as one without a label.
        """
        hour = int(time.time()) // HOUR_SECONDS
        with self._lock:
            for (task_id, version), prediction in zip(keys, predictions, strict=True):
                answered = prediction.labels or (prediction.label or "",)
                for label in answered:
                    score = (prediction.scores or {}).get(label, prediction.confidence or 0.0)
                    self._add(Counter(task_id, hour, version, label), Count(1, score))

    def flush(self) -> None:
        """Add all counts to the database, and delete those of long ago once an hour.

        Raises:
            SQLAlchemyError: the database is unavailable; the counts stay in memory.
        """
        with self._lock:
            counts, self._counts = self._counts, {}
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("usage_dropped predictions=%d", dropped)
        hour = int(time.time()) // HOUR_SECONDS
        prunes = hour != self._pruned_hour
        if not counts and not prunes:
            return
        try:
            with transaction(self._engine) as session:
                repository.add(session, counts)
                if prunes:
                    repository.prune(session)
        except SQLAlchemyError:
            with self._lock:
                for counter, count in counts.items():
                    self._add(counter, count)
            raise
        self._pruned_hour = hour

    def begin_close(self) -> None:
        """Let the thread write for the last time, without waiting for it."""
        self._writer.begin_close()

    def close(self) -> None:
        """Write the last counts and end the thread, but wait for it no longer than a few seconds."""
        self._writer.close()

    def _add(self, counter: Counter, count: Count) -> None:
        earlier = self._counts.get(counter)
        if earlier is None and len(self._counts) >= MAX_COUNTERS:
            self._dropped += count.predictions
        else:
            self._counts[counter] = count if earlier is None else earlier.plus(count)
