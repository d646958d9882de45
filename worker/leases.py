"""Leases of the running jobs: renewed with progress and checkpoints, dropped when lost, cancelled or paused."""

import logging

from sqlalchemy import Engine

from app.db.session import transaction
from app.queue import lifecycle
from app.settings import Settings
from worker import metrics
from worker.batch import Batch, RunningJob
from worker.outcomes import Outcomes

log = logging.getLogger(__name__)

# Limits the queries on a fast device. A step on a CPU takes longer, so a cancellation takes effect within one step.
_CHECK_SECONDS = 0.2


class Leases:
    """Keeps the leases of a batch and removes jobs that this worker must not continue."""

    def __init__(self, database: Engine, settings: Settings, batch: Batch, outcomes: Outcomes) -> None:
        self._database = database
        self._settings = settings
        self._batch = batch
        self._outcomes = outcomes
        self._checked_at = self._renewed_at = float("-inf")

    def check(self, now: float) -> None:
        """Remove the jobs whose lease was lost, or that a caller cancels or pauses."""
        if not self._batch or now - self._checked_at < _CHECK_SECONDS:
            return
        with transaction(self._database) as session:
            demands = lifecycle.check_leases(session, [job.lease for job in self._batch])
        self._checked_at = now
        for job in self._batch:
            adaptation_id = job.lease.adaptation_id
            if adaptation_id not in demands:
                self._drop(job)
            elif demands[adaptation_id] == "cancel":
                self._batch.remove(job)
                self._outcomes.cancel(job.lease)
            elif demands[adaptation_id] == "pause":
                self._batch.checkpoint(job)
                self._batch.remove(job)
                step, checkpoint = job.checkpoint_step, job.checkpoint
                self._outcomes.release(job.lease, reason="pause_requested", step=step, checkpoint=checkpoint)
        self._outcomes.store()

    def renew(self, now: float) -> None:
        """Renew the leases of jobs that advanced, and store the progress events and checkpoints that are due."""
        heartbeat_due = now - self._renewed_at >= self._settings.heartbeat_seconds
        for job in self._batch:
            checkpoint_due = job.step - job.checkpoint_step >= self._settings.checkpoint_every_steps
            if not job.unreported or not (heartbeat_due or checkpoint_due or job.event_due):
                continue
            if checkpoint_due:
                self._batch.checkpoint(job)
            event_due = job.event_due
            with transaction(self._database) as session:
                renewed = lifecycle.renew(
                    session,
                    job.lease,
                    lease_seconds=self._settings.lease_seconds,
                    step=job.step,
                    steps=job.steps,
                    checkpoint=job.checkpoint if checkpoint_due else None,
                    event=job.progress if event_due else None,
                )
            if renewed:
                job.record_report(with_event=event_due)
            else:
                self._drop(job)
        if heartbeat_due:
            self._renewed_at = now

    def _drop(self, job: RunningJob) -> None:
        self._batch.remove(job)
        metrics.LEASES_LOST.inc()
        log.warning("lease_lost adaptation=%s step=%d", job.lease.adaptation_id, job.step)
