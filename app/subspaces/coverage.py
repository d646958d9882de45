"""Counts what no subspace of this service can answer: tasks, and adaptations that no worker will take up."""

import logging
import threading
import time

from sqlalchemy import Engine

from app.db.session import read_transaction
from app.predictions.models import Models
from app.subspaces.repository import Unanswerable, count_unanswerable

log = logging.getLogger(__name__)

CACHE_SECONDS = 60.0
_NOTHING = Unanswerable(0, 0)


class Coverage:
    """Counts at most once in `CACHE_SECONDS`, for the readiness check and the metrics."""

    def __init__(self, engine: Engine, models: Models) -> None:
        self._engine = engine
        self._models = models
        self._lock = threading.Lock()
        self._counted = _NOTHING
        self._counted_at = float("-inf")

    def unanswerable(self) -> Unanswerable:
        """Return the counts, and log them when they change; zeros until the models are loaded.

        Raises:
            SQLAlchemyError: the database is unavailable.
        """
        if self._models.state != "ok":
            return _NOTHING
        with self._lock:
            if time.monotonic() - self._counted_at > CACHE_SECONDS:
                with read_transaction(self._engine) as session:
                    counted = count_unanswerable(session, self._models.subspace_ids)
                if counted != self._counted:
                    log.warning(
                        "subspaces_missing tasks=%d queued_adaptations=%d: name the folders of their subspaces in "
                        "IPT_EARLIER_SUBSPACES",
                        counted.tasks,
                        counted.queued_adaptations,
                    )
                self._counted, self._counted_at = counted, time.monotonic()
            return self._counted
