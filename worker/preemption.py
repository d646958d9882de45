"""Preemption: claims jobs and requeues the ones they displace.

A retry shares the engine with no other job. So that a retry and first attempts do not block each other for hours, each
preempts the other after a time slice (`worker.time_slices`), and the preempted job resumes later from its checkpoint.
A full batch also preempts a job that has had many slices, in favour of a tenant that has nothing running.
`docs/decisions/0040-preemption.md` gives the reasons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.queue import claiming, lifecycle
from app.queue.claiming import ClaimedAdaptation
from worker.batch import Batch, RunningJob

# Most first attempts finish soon, and restarting them costs more than waiting does. So a full batch preempts only a job
# that would block another tenant for very long.
_SLICES_IN_A_FULL_BATCH = 8


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The claimed adaptations, and each job preempted for them with whether this worker still held its lease."""

    claimed: list[ClaimedAdaptation]
    preempted: list[tuple[RunningJob, bool]]


def slice_seconds(lease_seconds: float) -> float:
    """Return the length of a time slice: two slices, one for each side, are as long as a lost worker's lease."""
    return lease_seconds / 2


def may_claim(batch: Batch, capacity: int, lease_seconds: float) -> bool:
    """Whether an adaptation could join the batch or preempt a job in it."""
    has_free_slot = not batch.is_retry and len(batch) < capacity
    seconds = slice_seconds(lease_seconds)
    return has_free_slot or batch.is_preemptible(seconds) or _longest_running(batch, seconds) is not None


def claim(
    session: Session,
    batch: Batch,
    *,
    subspace_ids: Sequence[str],
    text_subspace_id: str,
    worker_id: str,
    lease_seconds: float,
    capacity: int,
) -> ClaimResult:
    """Claim adaptations that may join the batch or preempt jobs in it, and requeue the preempted jobs.

    Both happen in one transaction: a claimed retry may kill the process at its first step, and the preempted jobs must
    be requeued by then. The batch itself does not change, because the transaction may fail.
    """
    seconds = slice_seconds(lease_seconds)
    longest = _longest_running(batch, seconds)
    claimed = claiming.claim(
        session,
        subspace_ids=subspace_ids,
        text_subspace_id=text_subspace_id,
        worker_id=worker_id,
        lease_seconds=lease_seconds,
        free_slots=capacity if batch.is_retry else capacity - len(batch),
        protected=0 if batch.is_preemptible(seconds) else len(batch),
        idle_tenant_slots=0 if longest is None else 1,
    )
    displaced: list[RunningJob] = []
    if claimed and (batch.is_retry or claimed[0].is_retry):
        displaced = list(batch)
    elif longest is not None and len(batch) + len(claimed) > capacity:
        displaced = [longest]
    for job in displaced:
        batch.checkpoint(job)
    preempted = [
        (job, lifecycle.preempt(session, job.lease, step=job.step, checkpoint=job.checkpoint)) for job in displaced
    ]
    return ClaimResult(claimed, preempted)


def _longest_running(batch: Batch, seconds: float) -> RunningJob | None:
    """Return the job that has run the longest, if it may be preempted in a full batch."""
    preemptible = [job for job in batch if job.time_slice.is_over(_SLICES_IN_A_FULL_BATCH * seconds)]
    return min(preemptible, key=lambda job: job.time_slice.joined_at, default=None)
