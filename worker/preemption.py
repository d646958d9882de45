"""Who takes whose place: a worker takes up whose turn it is, and hands back what has to make way for it.

An adaptation that is retried shares the engine with nobody. So that neither it nor the others wait for hours, whichever
runs makes way for the other once it has had its time slice (`worker.time_slices`), and goes on from where it was later.
And in a full batch, one that has had many slices makes way for a tenant who has nothing at work at all.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.queue import claiming, lifecycle
from app.queue.claiming import ClaimedAdaptation
from worker.batch import Batch, RunningJob

# First attempts run side by side, and most end by themselves: to begin them again and again would cost all of them more
# than waiting costs one. So only what would keep others waiting for very long makes way for them.
_SLICES_IN_A_FULL_BATCH = 8


@dataclass(frozen=True, slots=True)
class Change:
    """What joins the batch, and what leaves it for that; of each of these, whether it was still ours."""

    joining: list[ClaimedAdaptation]
    leaving: list[tuple[RunningJob, bool]]


def slice_seconds(lease_seconds: float) -> float:
    """How long a time slice lasts: two, one of each side, are as long as anyone waits for a lost worker's lease."""
    return lease_seconds / 2


def may_change(batch: Batch, capacity: int, lease_seconds: float) -> bool:
    """Whether anything could be taken up beside what runs, or in its place."""
    has_room = not batch.runs_alone and len(batch) < capacity
    seconds = slice_seconds(lease_seconds)
    return has_room or batch.has_had(seconds) or _longest(batch, seconds) is not None


def change(
    session: Session, batch: Batch, *, subspace_id: str, worker_id: str, lease_seconds: float, capacity: int
) -> Change:
    """Take up what may join the batch or take its place, and hand back what makes way.

    Both are one transaction: what is taken up may take its process with it at the first step, and whatever made way
    must be out of its reach by then. The batch itself is left as it is, for the transaction may fail.
    """
    seconds = slice_seconds(lease_seconds)
    longest = _longest(batch, seconds)
    claimed = claiming.claim(
        session,
        subspace_id=subspace_id,
        worker_id=worker_id,
        lease_seconds=lease_seconds,
        free_slots=capacity if batch.runs_alone else capacity - len(batch),
        protected=0 if batch.has_had(seconds) else len(batch),
        idle_tenant_slots=0 if longest is None else 1,
    )
    making_way: list[RunningJob] = []
    if claimed and (batch.runs_alone or claimed[0].is_retry):
        making_way = list(batch)
    elif longest is not None and len(batch) + len(claimed) > capacity:
        making_way = [longest]
    for job in making_way:
        batch.checkpoint(job)
    leaving = [
        (job, lifecycle.preempt(session, job.lease, step=job.step, checkpoint=job.checkpoint)) for job in making_way
    ]
    return Change(claimed, leaving)


def _longest(batch: Batch, seconds: float) -> RunningJob | None:
    """The job that has been tuned the longest, if that was long enough to make way in a full batch."""
    had = [job for job in batch if job.slice.is_over(_SLICES_IN_A_FULL_BATCH * seconds)]
    return min(had, key=lambda job: job.slice.joined_at, default=None)
