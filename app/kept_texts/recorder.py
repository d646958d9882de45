"""Collects texts that were asked in memory, and stores those of tenants that keep theirs a few times a minute."""

import logging
import threading
from collections.abc import Collection, Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import ipt
from app.db.periodic_writer import WRITE_SECONDS, PeriodicWriter
from app.db.session import transaction
from app.kept_texts import repository
from app.kept_texts.repository import KeptText

MAX_TEXTS = 1000
MAX_CHARS = 2_000_000
"""Most texts and characters that wait for the database; further ones are dropped."""

log = logging.getLogger(__name__)


class TextRecorder:
    """Texts that this process was asked; it learns within seconds that a tenant keeps its texts."""

    def __init__(self, engine: Engine, write_seconds: float = WRITE_SECONDS) -> None:
        """Start the thread that writes to the database every `write_seconds`."""
        self._engine = engine
        self._tenants: Collection[str] = frozenset()
        self._texts: set[KeptText] = set()
        self._chars = self._dropped = 0
        self._lock = threading.Lock()
        self._writer = PeriodicWriter("kept_texts", self.flush, write_seconds)

    def record(
        self,
        tenant_id: str,
        keys: Sequence[tuple[str, int]],
        texts: Sequence[str],
        predictions: Sequence[ipt.Prediction],
    ) -> None:
        """Collect texts that were answered with labels, if the tenant keeps its texts; never waits for the database."""
        if tenant_id not in self._tenants:
            return
        with self._lock:
            for (task_id, _), text, prediction in zip(keys, texts, predictions, strict=True):
                kept = KeptText(task_id, text)
                if prediction.scores is None or kept in self._texts:
                    continue
                if len(self._texts) == MAX_TEXTS or self._chars + len(text) > MAX_CHARS:
                    self._dropped += 1
                    continue
                self._texts.add(kept)
                self._chars += len(text)

    def flush(self) -> None:
        """Store the texts, and read which tenants keep theirs; texts that cannot be stored now are dropped.

        Raises:
            SQLAlchemyError: the database is unavailable.
        """
        with self._lock:
            texts, self._texts = self._texts, set()
            dropped, self._dropped, self._chars = self._dropped, 0, 0
        if dropped:
            log.warning("kept_texts_dropped texts=%d", dropped)
        try:
            with transaction(self._engine) as session:
                self._tenants = repository.keeping_tenants(session)
                repository.add(session, texts)
        except SQLAlchemyError:
            self._tenants = frozenset()
            raise

    def begin_close(self) -> None:
        """Let the thread write for the last time, without waiting for it."""
        self._writer.begin_close()

    def close(self) -> None:
        """Store the last texts and end the thread, but wait for it no longer than a few seconds."""
        self._writer.close()
