"""Who takes whose place: a worker takes up whose turn it is, and hands back what has to make way for it.

An adaptation that is retried shares the engine with nobody. So that neither it nor the others wait for hours, whichever
runs makes way for the other once it has had its time slice (`worker.slices`), and goes on from where it was later.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.adaptations import claiming, lifecycle
from app.adaptations.claiming import Claimed
from worker.batch import Batch, RunningJob


@dataclass(frozen=True, slots=True)
class Change:
    """What joins the batch; where anything leaves it for that, all does. Of each, whether it was still ours."""

    joining: list[Claimed]
    leaving: list[tuple[RunningJob, bool]]


def slice_seconds(lease_seconds: float) -> float:
    """How long a time slice lasts: two, one of each side, are as long as anyone waits for a lost worker's lease."""
    return lease_seconds / 2


def may_change(batch: Batch, capacity: int, lease_seconds: float) -> bool:
    """Whether anything could be taken up beside what runs, or in its place."""
    has_room = not batch.runs_alone and len(batch) < capacity
    return has_room or batch.has_had(slice_seconds(lease_seconds))


def change(
    session: Session, batch: Batch, *, subspace_id: str, worker_id: str, lease_seconds: float, capacity: int
) -> Change:
    """Take up what may join the batch or take its place, and hand back what makes way.

    Both are one transaction: what is taken up may take its process with it at the first step, and whatever made way
    must be out of its reach by then. The batch itself is left as it is, for the transaction may fail.
    """
    claimed = claiming.claim(
        session,
        subspace_id=subspace_id,
        worker_id=worker_id,
        lease_seconds=lease_seconds,
        room=capacity if batch.runs_alone else capacity - len(batch),
        running=0 if batch.has_had(slice_seconds(lease_seconds)) else len(batch),
    )
    leaving = []
    if claimed and (batch.runs_alone or claimed[0].is_retried):
        for job in batch:
            batch.checkpoint(job)
            leaving.append((job, lifecycle.make_way(session, job.lease, step=job.step, checkpoint=job.checkpoint)))
    return Change(claimed, leaving)
