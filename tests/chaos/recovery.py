"""Recovery after faults: how long an adaptation waits after the loss of its worker, and the connections in use."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from app.db.models import FINISHED, Adaptation, AdaptationEvent
from app.db.session import transaction
from tests.chaos.processes import Service
from tests.chaos.result import Result

SECONDS_AFTER_REAPING = 10.0
"""Within the lease, the reaper's interval and this time, an adaptation runs again."""
# Pools with their overflow: requests 20 and lookups 4 in an API process; 2 in a worker.
_CONNECTIONS_OF_API, _CONNECTIONS_OF_WORKER = 24, 2


@dataclass(frozen=True)
class Interruption:
    """A fault that took a worker from the adaptations that it ran."""

    fault: str
    at: datetime
    adaptations: tuple[str, ...]


def running_adaptations(service: Service) -> list[tuple[str, int]]:
    """Return the id of each running adaptation with the process id of its worker; [] while the database is down."""
    running = select(Adaptation.id, Adaptation.worker_id).where(Adaptation.state == "running")
    try:
        with transaction(service.engine) as session:
            # The second part of a worker id is its process id.
            return [(id_, int(worker_id.split(":")[1])) for id_, worker_id in session.execute(running) if worker_id]
    except SQLAlchemyError:
        return []


def interrupted_now(fault: str, adaptations: tuple[str, ...]) -> Interruption:
    """Return an interruption at this moment by the wall clock, as the database's times are."""
    return Interruption(fault, datetime.now(UTC), adaptations)


def count_connections(service: Service) -> int:
    """Return the number of clients that are connected to the database; 0 while it is down."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    try:
        with transaction(service.engine) as session:
            return int(session.execute(text(count)).scalar_one())
    except SQLAlchemyError:
        return 0


def check_recovery(
    service: Service, interruptions: Sequence[Interruption], bound_seconds: float, result: Result
) -> None:
    """Measure how long each interrupted adaptation waited until it ran again or finished, and check the bounds.

    Args:
        bound_seconds: a longer wait is an error.
    """
    with transaction(service.engine) as session:
        for interruption in interruptions:
            for id_ in interruption.adaptations:
                resumed_at = session.scalar(
                    select(AdaptationEvent.created_at)
                    .where(
                        AdaptationEvent.adaptation_id == id_,
                        AdaptationEvent.type.in_(("running", *FINISHED)),
                        AdaptationEvent.created_at > interruption.at,
                    )
                    .order_by(AdaptationEvent.seq)
                    .limit(1)
                )
                if resumed_at is None:
                    continue  # lost; `check_adaptations` reports it
                waited = (resumed_at - interruption.at) / timedelta(seconds=1)
                result.recovery_seconds.append((waited, interruption.fault))
                if waited > bound_seconds:
                    limits = f"{waited:.1f} s, the bound is {bound_seconds:.1f} s"
                    result.errors.append(f"{id_} waited too long after {interruption.fault}: {limits}")
    most = 1.1 * (_CONNECTIONS_OF_API * len(service.apis) + _CONNECTIONS_OF_WORKER * len(service.workers))
    if result.most_connections > most:
        result.errors.append(f"{result.most_connections} connections to the database; the pools hold {most / 1.1:.0f}")
