"""The reaper, which runs in every worker: requeues the adaptations of lost workers."""

import logging

from sqlalchemy import Engine

from app.db.session import transaction
from app.queue import lifecycle
from app.settings import Settings
from worker import metrics
from worker.retention import Retention

log = logging.getLogger(__name__)


class Reaper:
    """Reaps expired leases, and what has aged out, every `reap_seconds`.

    The first run expires the leases of this worker's predecessor.
    """

    def __init__(
        self, database: Engine, settings: Settings, worker_id: str, predecessor_end: str | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._worker_id = worker_id
        self._ends = {} if predecessor_end is None else {worker_id: predecessor_end}
        self._predecessor_expired = False
        self._reaped_at = float("-inf")
        self._retention = Retention(database, settings)

    def reap(self, now: float) -> None:
        """Requeue adaptations with an expired lease, or fail them after too many losses, if a run is due."""
        if not self._predecessor_expired:
            with transaction(self._database) as session:
                lifecycle.expire_leases(session, self._worker_id)
            self._predecessor_expired = True
        elif now - self._reaped_at < self._settings.reap_seconds:
            return
        with transaction(self._database) as session:
            reaped = lifecycle.reap(session, self._ends)
        self._retention.run()
        self._reaped_at = now
        metrics.LEASES_EXPIRED.inc(len(reaped))
        for row in reaped:
            log.warning(
                "adaptation_reaped adaptation=%s attempt=%d state=%s", row.adaptation_id, row.attempt, row.state
            )
