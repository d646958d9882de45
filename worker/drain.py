"""The drain loop: claim what is queued, advance all of it step by step, and keep the database informed in between."""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError, StatementError
from sqlalchemy.orm import Session

from app.db.session import is_gone, transaction
from app.errors import ErrorDetail
from app.logs import where
from app.queue import lifecycle, workers
from app.queue.claiming import ClaimedAdaptation
from app.queue.lifecycle import Lease
from app.settings import Settings
from app.subspaces import repository as subspaces
from ipt.errors import CheckpointError, IptError, SubspaceMismatchError
from ipt.runtime.memory import is_out_of_memory
from worker import failures, metrics, preemption
from worker.backoff import Backoff
from worker.batch import Batch, RunningJob
from worker.liveness import SignOfLife
from worker.model import Core

log = logging.getLogger(__name__)

# Cancelling is noticed within a step on a CPU; on a faster device this keeps the question from costing much.
_LOOK_SECONDS = 0.2
# How long a worker that must end tries to write down what it leaves behind; the leases' end covers the rest.
_LAST_WORDS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an adaptation left the batch, kept until the database knows; storing it twice does no harm."""

    name: str
    lease: Lease
    store: Callable[[Session], bool]


class Drainer:
    """Runs queued adaptations in one engine; one thread at a time drives it.

    Everything it tells the database is either written under the lease or discarded, so no step depends on whether
    the one before got through.
    """

    def __init__(
        self, database: Engine, core: Core, settings: Settings, worker_id: str, sign: SignOfLife | None = None
    ) -> None:
        self._database = database
        self._core = core
        self._settings = settings
        self._worker_id = worker_id
        self._sign = sign
        self._batch = Batch(core.engine)
        # Where the first attempt is the last one, whoever made it together with others could fail through them.
        self._most_jobs = 1 if settings.max_attempts == 1 else settings.jobs_per_batch
        self._capacity = self._most_jobs
        self._unsaved: list[_Outcome] = []
        self._trouble = Backoff(first=0.5, most=10.0)
        self._try_again_at = float("-inf")
        self._inherited = self._registered = False
        self._renewed_at = self._looked_at = self._claimed_at = self._reaped_at = self._announced_at = float("-inf")

    def drain(self, stop: threading.Event) -> None:
        """Run whatever is queued until nothing is left; once `stop` is set, hand back what runs, and return.

        Raises:
            BackboneError, SubspaceError: nothing can be tuned here, or the database does not take the subspace;
                what was queued stays queued.
            DeviceLostError: this process is of no use any more; what ran has been given back.
        """
        while not stop.is_set():
            self._exchange()
            self._show_life()
            if self._batch:
                self._advance()
                self._show_life()
            elif self._unsaved:
                stop.wait(max(0.0, self._try_again_at - time.monotonic()))
            else:
                return
        self._hand_back()

    def poll(self, stop: threading.Event) -> None:
        """Drain until `stop` is set, with nobody to say when there is something to do."""
        while not stop.is_set():
            self.drain(stop)
            stop.wait(self._settings.poll_seconds)
        self.leave()

    def _show_life(self) -> None:
        """In this thread alone, after something was done: a step that hangs gives no sign."""
        if self._sign is not None:
            self._sign.give()

    def _exchange(self) -> None:
        """Everything between two steps that needs the database; without one, the steps go on."""
        now = time.monotonic()
        if now < self._try_again_at:
            return
        try:
            self._save_outcomes()
            self._look(now)
            self._report(now)
            self._reap(now)
            self._claim(now)
            self._announce(now)
        except SQLAlchemyError as error:
            wait = self._trouble.failed()
            self._try_again_at = time.monotonic() + wait
            trouble = "database_unavailable" if is_gone(error) else "database_refuses"
            log.warning("%s running=%d retry_in=%.1f %s", trouble, len(self._batch), wait, where(error))
            return
        if self._trouble.failures:
            log.info("database_back failures=%d", self._trouble.failures)
            self._trouble.succeeded()

    def _save_outcomes(self) -> None:
        while self._unsaved:
            outcome = self._unsaved[0]
            adaptation_id = outcome.lease.adaptation_id
            try:
                with transaction(self._database) as session:
                    stored = outcome.store(session)
            except StatementError as error:
                if is_gone(error):
                    raise
                # The database is there and refuses this very outcome: kept, it would hold up all that follow.
                log.error("outcome_refused adaptation=%s outcome=%s %s", adaptation_id, outcome.name, where(error))
                del self._unsaved[0]
                if outcome.name != "failed":
                    self._fail(outcome.lease, failures.INTERNAL)
                continue
            del self._unsaved[0]
            self._left(outcome.lease, outcome.name, stored)

    def _left(self, lease: Lease, outcome: str, stored: bool) -> None:
        if stored:
            metrics.left(outcome, time.monotonic() - lease.claimed_at)
            log.info("adaptation_%s adaptation=%s", outcome, lease.adaptation_id)
        else:
            metrics.LEASES_LOST.inc()
            log.warning("lease_lost adaptation=%s discarded=%s", lease.adaptation_id, outcome)

    def _look(self, now: float) -> None:
        """Let go of what is to be cancelled, and of what is no longer ours."""
        if not self._batch or now - self._looked_at < _LOOK_SECONDS:
            return
        with transaction(self._database) as session:
            held = lifecycle.check_leases(session, [job.lease for job in self._batch])
        self._looked_at = now
        for job in self._batch:
            cancel_requested = held.get(job.lease.adaptation_id)
            if cancel_requested is None:
                self._let_go(job)
            elif cancel_requested:
                self._batch.remove(job)
                store = partial(lifecycle.cancel_running, lease=job.lease)
                self._unsaved.append(_Outcome("cancelled", job.lease, store))
        self._save_outcomes()

    def _let_go(self, job: RunningJob) -> None:
        self._batch.remove(job)
        metrics.LEASES_LOST.inc()
        log.warning("lease_lost adaptation=%s step=%d", job.lease.adaptation_id, job.step)

    def _report(self, now: float) -> None:
        """Renew the leases of jobs that made progress, and save the progress and checkpoints that are due."""
        heartbeat = now - self._renewed_at >= self._settings.heartbeat_seconds
        every = self._settings.checkpoint_every_steps
        for job in self._batch:
            checkpoint_due = job.step - job.checkpoint_step >= every
            if not job.unreported or not (heartbeat or checkpoint_due or job.progress_due):
                continue
            if checkpoint_due:
                self._batch.checkpoint(job)
            announced = job.progress_due
            with transaction(self._database) as session:
                renewed = lifecycle.renew(
                    session,
                    job.lease,
                    lease_seconds=self._settings.lease_seconds,
                    step=job.step,
                    steps=job.steps,
                    checkpoint=job.checkpoint if checkpoint_due else None,
                    event=job.progress if announced else None,
                )
            if renewed:
                job.reported(announced=announced)
            else:
                self._let_go(job)
        if heartbeat:
            self._renewed_at = now

    def _reap(self, now: float) -> None:
        if not self._inherited:
            with transaction(self._database) as session:
                lifecycle.expire_leases(session, self._worker_id)
            self._inherited = True
        elif now - self._reaped_at < self._settings.reap_seconds:
            return
        with transaction(self._database) as session:
            reaped = lifecycle.reap(session, max_attempts=self._settings.max_attempts)
        self._reaped_at = now
        metrics.LEASES_EXPIRED.inc(len(reaped))
        for row in reaped:
            log.warning(
                "adaptation_reaped adaptation=%s attempt=%d state=%s", row.adaptation_id, row.attempt, row.state
            )

    def _claim(self, now: float) -> None:
        lease_seconds = self._settings.lease_seconds
        if self._batch and (
            now - self._claimed_at < self._settings.poll_seconds
            or not preemption.may_change(self._batch, self._capacity, lease_seconds)
        ):
            return
        if not self._core.loaded:
            with transaction(self._database) as session:
                if not lifecycle.any_queued(session):
                    return
        _, subspace = self._core.load()
        with transaction(self._database) as session:
            if not self._registered:
                subspaces.register(session, subspace)
            change = preemption.change(
                session,
                self._batch,
                subspace_id=subspace.id,
                worker_id=self._worker_id,
                lease_seconds=lease_seconds,
                capacity=self._capacity,
            )
        self._registered = True
        self._claimed_at = now
        for job, handed_back in change.leaving:
            self._batch.remove(job)
            self._left(job.lease, "handed_back", handed_back)
        for adaptation in change.joining:
            self._take_up(adaptation)

    def _announce(self, now: float) -> None:
        """Say that this worker is there, and in which subspace it tunes."""
        if now - self._announced_at < self._settings.heartbeat_seconds:
            return
        subspace_id = self._core.load()[1].id if self._core.loaded else None
        with transaction(self._database) as session:
            workers.announce(session, self._worker_id, subspace_id, len(self._batch))
        self._announced_at = now

    def _take_up(self, claimed: ClaimedAdaptation) -> None:
        adaptation_id = claimed.lease.adaptation_id
        log.info("adaptation_claimed adaptation=%s attempt=%d step=%d", adaptation_id, claimed.attempt, claimed.step)
        try:
            self._join(RunningJob.of(claimed))
        except IptError as error:
            self._fail(claimed.lease, failures.refused(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the other jobs with it
            log.error("adaptation_not_started adaptation=%s %s", adaptation_id, where(error))
            self._retry(claimed.lease, error)

    def _join(self, job: RunningJob) -> None:
        try:
            self._batch.add(job)
        except (CheckpointError, SubspaceMismatchError) as error:
            if job.checkpoint is None:
                raise
            log.warning("checkpoint_unusable adaptation=%s %s", job.lease.adaptation_id, where(error))
            job.checkpoint = None
            self._batch.add(job)

    def _advance(self) -> None:
        jobs = len(self._batch)
        try:
            done = self._batch.step()
        except Exception as error:  # noqa: BLE001 - told apart below
            self._recover(error)
            return
        metrics.stepped(jobs)
        for job in done:
            self._finish(job)
        if not self._batch:
            self._capacity = min(self._most_jobs, 2 * self._capacity)

    def _finish(self, job: RunningJob) -> None:
        try:
            task = self._batch.finish(job)
        except IptError as error:
            self._fail(job.lease, failures.refused(error))
            return
        except Exception as error:  # noqa: BLE001 - the other jobs go on
            log.error("finish_failed adaptation=%s %s", job.lease.adaptation_id, where(error))
            self._retry(job.lease, error)
            self._end_if_device_lost(error)
            return
        _, subspace = self._core.load()
        start = subspace.initial_vector_id(task.head.vector)
        store = partial(lifecycle.succeed, lease=job.lease, task=task, start=start)
        self._unsaved.append(_Outcome("succeeded", job.lease, store))

    def _recover(self, error: Exception) -> None:
        """Give back the jobs of a step that went wrong, and go on with a new engine.

        Memory that ran out is nobody's fault as long as there is a batch to halve. For anything else nobody knows
        which job did it, so each is tried again, alone; one that is alone already is told by the error itself.
        """
        jobs = self._batch.abandon()
        log.error("step_failed running=%d %s", len(jobs), where(error))
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # the frames hold the tensors that there was no room for
            torch.cuda.empty_cache()
            if len(jobs) > 1:
                self._halve(jobs)
                return
        if len(jobs) == 1 and isinstance(error, IptError):
            self._fail(jobs[0].lease, failures.refused(error))
            return
        for job in jobs:
            self._retry(job.lease, error)
        self._end_if_device_lost(error)

    def _halve(self, jobs: list[RunningJob]) -> None:
        self._capacity = len(jobs) // 2
        metrics.HALVINGS.inc()
        log.warning("batch_halved from=%d to=%d", len(jobs), self._capacity)
        for job in jobs[self._capacity :]:
            self._hand_back_one(job, "out_of_memory")
        for job in jobs[: self._capacity]:
            try:
                self._join(job)
            except Exception as error:  # noqa: BLE001 - the other jobs go on
                self._retry(job.lease, error)

    def leave(self) -> None:
        """Sign off: nothing runs any more, and nobody need wait to see that this worker is gone."""
        try:
            with transaction(self._database) as session:
                workers.remove(session, self._worker_id)
        except SQLAlchemyError as error:
            log.warning("not_signed_off %s", where(error))

    def _hand_back(self) -> None:
        for job in self._batch:
            self._batch.checkpoint(job)
        for job in self._batch.abandon():
            self._hand_back_one(job, "worker_stopped")
        self._save_last_words()

    def _hand_back_one(self, job: RunningJob, reason: str) -> None:
        store = partial(
            lifecycle.release, lease=job.lease, reason=reason, step=job.checkpoint_step, checkpoint=job.checkpoint
        )
        self._unsaved.append(_Outcome("handed_back", job.lease, store))

    def _fail(self, lease: Lease, error: ErrorDetail) -> None:
        self._unsaved.append(_Outcome("failed", lease, partial(lifecycle.fail, lease=lease, error=error)))

    def _retry(self, lease: Lease, error: Exception) -> None:
        store = partial(
            lifecycle.retry, lease=lease, max_attempts=self._settings.max_attempts, error=failures.unforeseen(error)
        )
        self._unsaved.append(_Outcome("retried", lease, store))

    def _end_if_device_lost(self, error: Exception) -> None:
        if not failures.is_device_lost(error):
            return
        for job in self._batch.abandon():
            self._hand_back_one(job, "device_lost")
        self._save_last_words()
        raise failures.DeviceLostError(f"the device fails since {where(error)}") from error

    def _save_last_words(self) -> None:
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self._unsaved:
            try:
                self._save_outcomes()
            except SQLAlchemyError as error:
                if time.monotonic() > deadline:
                    log.error("left_to_the_reaper adaptations=%d %s", len(self._unsaved), where(error))
                    self._unsaved.clear()
                    return
                time.sleep(0.2)
