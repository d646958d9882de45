"""The drain loop: claim queued adaptations, advance all of them step by step, and report to the database in between."""

import logging
import threading
import time
import traceback

import torch
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import is_unavailable, transaction
from app.logs import where
from app.queue import lifecycle, workers
from app.queue.claiming import ClaimedAdaptation
from app.settings import Settings
from app.subspaces import repository as subspaces
from ipt.errors import CheckpointError, IptError, SubspaceError, SubspaceMismatchError
from ipt.runtime.memory import is_out_of_memory
from worker import failures, metrics, outcomes, preemption
from worker.backoff import Backoff
from worker.batch import Batch, RunningJob
from worker.lazy_model import LazyModel
from worker.leases import Leases
from worker.liveness import LivenessFile
from worker.outcomes import Outcomes
from worker.reaper import Reaper

log = logging.getLogger(__name__)


class Drainer:
    """Runs queued adaptations in one batch; only one thread at a time may drive it.

    Every write is a compare-and-set on the lease, so no step depends on whether an earlier write got through.
    """

    def __init__(
        self,
        database: Engine,
        model: LazyModel,
        settings: Settings,
        worker_id: str,
        liveness: LivenessFile | None = None,
        predecessor_end: str | None = None,
    ) -> None:
        self._database = database
        self._model = model
        self._settings = settings
        self._worker_id = worker_id
        self._liveness = liveness
        self._batch = Batch(model.new_engine)
        # With one attempt only, a job that shares a batch could fail because of another job.
        self._max_jobs = 1 if settings.max_attempts == 1 else settings.jobs_per_batch
        self._capacity = self._max_jobs
        self._outcomes = Outcomes(database, settings.max_attempts)
        self._leases = Leases(database, settings, self._batch, self._outcomes)
        self._reaper = Reaper(database, settings, worker_id, predecessor_end)
        self._backoff = Backoff(shortest=0.5, longest=10.0)
        self._subspaces_registered = False
        self._retry_database_at = self._claimed_at = self._announced_at = float("-inf")

    def drain(self, stop: threading.Event) -> None:
        """Run queued adaptations until the queue is empty; once `stop` is set, release the running jobs and return.

        Raises:
            BackboneError, SubspaceError: the model cannot be loaded, or the database rejects the subspace; queued
                adaptations stay queued.
            DeviceLostError: this process can no longer use its device; the running jobs have been released.
        """
        while not stop.is_set():
            self._exchange()
            self._touch_liveness()
            if self._batch:
                self._advance()
                self._touch_liveness()
            elif self._outcomes:
                stop.wait(max(0.0, self._retry_database_at - time.monotonic()))
            else:
                return
        self._release_all()

    def poll(self, stop: threading.Event) -> None:
        """Drain every `poll_seconds` until `stop` is set."""
        while not stop.is_set():
            self.drain(stop)
            stop.wait(self._settings.poll_seconds)
        self.sign_off()

    def sign_off(self) -> None:
        """Remove this worker from the list of workers, after it has released its jobs."""
        try:
            with transaction(self._database) as session:
                workers.remove(session, self._worker_id)
        except SQLAlchemyError as error:
            log.warning("not_signed_off %s", where(error))

    def _touch_liveness(self) -> None:
        # Only from this thread, so that a hung step touches nothing.
        if self._liveness is not None:
            self._liveness.touch()

    def _exchange(self) -> None:
        """Exchange state with the database between two steps; while the database is down, the steps continue."""
        now = time.monotonic()
        if now < self._retry_database_at:
            return
        try:
            self._outcomes.store()
            self._leases.check(now)
            self._leases.renew(now)
            self._reaper.reap(now)
            self._claim(now)
            self._announce(now)
        except SQLAlchemyError as error:
            wait = self._backoff.record_failure()
            self._retry_database_at = time.monotonic() + wait
            event = "database_unavailable" if is_unavailable(error) else "database_refuses"
            log.warning("%s running=%d retry_in=%.1f %s", event, len(self._batch), wait, where(error))
            return
        if self._backoff.failures:
            log.info("database_back failures=%d", self._backoff.failures)
            self._backoff.reset()

    def _claim(self, now: float) -> None:
        lease_seconds = self._settings.lease_seconds
        if self._batch and (
            now - self._claimed_at < self._settings.poll_seconds
            or not preemption.may_claim(self._batch, self._capacity, lease_seconds)
        ):
            return
        if not self._model.loaded:
            with transaction(self._database) as session:
                if not lifecycle.any_queued(session):
                    return
        models = self._model.load()
        with transaction(self._database) as session:
            for subspace in [] if self._subspaces_registered else models.subspaces:
                subspaces.register(session, subspace)
            result = preemption.claim(
                session,
                self._batch,
                subspace_ids=self._model.subspace_ids(),
                text_subspace_id=models.text_subspace.id,
                worker_id=self._worker_id,
                lease_seconds=lease_seconds,
                capacity=self._capacity,
            )
        self._subspaces_registered = True
        self._claimed_at = now
        for job, stored in result.preempted:
            self._batch.remove(job)
            outcomes.record(job.lease, "handed_back", stored=stored)
        for adaptation in result.claimed:
            self._start(adaptation)

    def _announce(self, now: float) -> None:
        if now - self._announced_at < self._settings.heartbeat_seconds:
            return
        subspace_ids = self._model.subspace_ids() if self._model.loaded else []
        with transaction(self._database) as session:
            workers.announce(session, self._worker_id, subspace_ids, len(self._batch))
        self._announced_at = now

    def _start(self, claimed: ClaimedAdaptation) -> None:
        adaptation_id = claimed.lease.adaptation_id
        log.info("adaptation_claimed adaptation=%s attempt=%d step=%d", adaptation_id, claimed.attempt, claimed.step)
        try:
            self._model.subspace(claimed.subspace_id)
        except SubspaceError as error:
            # No fault of the adaptation's: a worker that can load the subspace will tune it.
            log.error("subspace_unusable subspace=%s: %s", claimed.subspace_id, error.message)
            self._outcomes.release(claimed.lease, reason="subspace_unusable", step=claimed.step, checkpoint=None)
            return
        try:
            self._join(RunningJob.from_claim(claimed))
        except IptError as error:
            self._outcomes.fail(claimed.lease, failures.rejected(error))
        except Exception as error:  # noqa: BLE001 - no error may end the other jobs
            log.error("adaptation_not_started adaptation=%s %s", adaptation_id, where(error))
            self._outcomes.retry(claimed.lease, error)

    def _join(self, job: RunningJob) -> None:
        """Add a job to the batch, from its first step if the engine rejects its checkpoint."""
        try:
            self._batch.add(job)
        except (CheckpointError, SubspaceMismatchError) as error:
            if job.checkpoint is None:
                raise
            log.warning("checkpoint_unusable adaptation=%s %s", job.lease.adaptation_id, where(error))
            job.checkpoint = None
            self._batch.add(job)

    def _advance(self) -> None:
        try:
            done = self._batch.step()
        except Exception as error:  # noqa: BLE001 - `_recover` distinguishes the errors
            self._recover(error)
            return
        for job in done:
            self._finish(job)
        if not self._batch:
            self._capacity = min(self._max_jobs, 2 * self._capacity)

    def _finish(self, job: RunningJob) -> None:
        try:
            task = self._batch.finish(job)
        except IptError as error:
            self._outcomes.fail(job.lease, failures.rejected(error))
            return
        except Exception as error:  # noqa: BLE001 - the other jobs continue
            log.error("finish_failed adaptation=%s %s", job.lease.adaptation_id, where(error))
            self._outcomes.retry(job.lease, error)
            self._end_if_device_lost(error)
            return
        subspace = self._model.subspace(job.subspace_id)
        self._outcomes.succeed(job.lease, task, subspace.initial_vector_id(task.head.vector))

    def _recover(self, error: Exception) -> None:
        """Requeue the jobs of a failed step; the next batch gets a new engine.

        Out-of-memory is no job's fault as long as the batch can be halved. For any other error the culprit is unknown,
        so each job is retried alone. A job that already ran alone and was rejected by the core fails with that error.
        """
        jobs = self._batch.abandon()
        log.error("step_failed running=%d %s", len(jobs), where(error))
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # the frames keep the tensors of the step alive
            torch.cuda.empty_cache()
            if len(jobs) > 1:
                self._halve(jobs)
                return
        if len(jobs) == 1 and isinstance(error, IptError):
            self._outcomes.fail(jobs[0].lease, failures.rejected(error))
            return
        for job in jobs:
            self._outcomes.retry(job.lease, error)
        self._end_if_device_lost(error)

    def _halve(self, jobs: list[RunningJob]) -> None:
        self._capacity = len(jobs) // 2
        metrics.HALVINGS.inc()
        log.warning("batch_halved from=%d to=%d", len(jobs), self._capacity)
        for job in jobs[self._capacity :]:
            self._release(job, "out_of_memory")
        for job in jobs[: self._capacity]:
            try:
                self._join(job)
            except Exception as error:  # noqa: BLE001 - the other jobs continue
                self._outcomes.retry(job.lease, error)

    def _release_all(self) -> None:
        for job in self._batch:
            self._batch.checkpoint(job)
        for job in self._batch.abandon():
            self._release(job, "worker_stopped")
        self._outcomes.store_before_exit()

    def _release(self, job: RunningJob, reason: str) -> None:
        self._outcomes.release(job.lease, reason=reason, step=job.checkpoint_step, checkpoint=job.checkpoint)

    def _end_if_device_lost(self, error: Exception) -> None:
        if not failures.is_device_lost(error):
            return
        for job in self._batch.abandon():
            self._release(job, "device_lost")
        self._outcomes.store_before_exit()
        raise failures.DeviceLostError(f"the device fails since {where(error)}") from error
