"""A chaos run: sends adaptations to a real service while faults are injected, then checks every result."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from app.db.models import FINISHED, Adaptation, Worker
from app.db.session import transaction
from tests.chaos.checks import check_adaptations, check_vectors
from tests.chaos.client import Client
from tests.chaos.faults import FaultInjector
from tests.chaos.processes import Service, running
from tests.chaos.recovery import SECONDS_AFTER_REAPING, check_recovery, count_connections
from tests.chaos.result import Result

LEASE_SECONDS = 3.0
REAP_SECONDS = 1.0
# The mean pause between faults, as a fraction of the service's start time: longer on a slow machine.
_PAUSE_PER_START_SECOND = 0.2
# Longer than any part of the service takes to restart.
_STUCK_SECONDS = 300.0
# A pool process whose parent was killed ends after its current work.
_ORPHAN_SECONDS = 30.0
_TICK_SECONDS = 0.1
_LOG_SECONDS = 10.0


def run(
    folder: Path,
    backbone: Path,
    subspace: Path,
    *,
    adaptations: int,
    seed: int,
    faults: int,
    log: Callable[[str], None],
) -> Result:
    """Send the adaptations and inject faults, at most `faults`, until all have finished; then check everything.

    Args:
        folder: an empty folder for PostgreSQL and the log of all processes.
    """
    settings = {
        "IPT_BACKBONE": str(backbone),
        "IPT_SUBSPACE": str(subspace),
        "IPT_DEVICE": "cpu",
        "IPT_LEASE_SECONDS": str(LEASE_SECONDS),
        "IPT_HEARTBEAT_SECONDS": "0.5",
        "IPT_REAP_SECONDS": str(REAP_SECONDS),
        "IPT_POLL_SECONDS": "0.2",
        "IPT_CHECKPOINT_EVERY_STEPS": "5",
        "IPT_JOBS_PER_BATCH": "4",
    }
    result = Result(adaptations)
    with running(folder, settings) as service:
        began = time.monotonic()
        _wait_until_ready(service)
        start_seconds = time.monotonic() - began
        pause = _PAUSE_PER_START_SECOND * start_seconds
        log(f"ready after {start_seconds:.1f} s; a fault every {pause:.1f} s")
        began = time.monotonic()
        # The client spreads its requests over the time of the faults.
        with Client(service, adaptations, faults * pause, seed) as client:
            injector = FaultInjector(service, LEASE_SECONDS, seed, result.faults)
            _inject_faults(service, client, injector, result, faults, pause, log)
        result.seconds = time.monotonic() - began
        result.errors += client.errors
        result.stop_seconds += [
            (seconds, process.name) for process in (*service.apis, *service.workers) for seconds in process.stop_seconds
        ]
        _, alive = psutil.wait_procs(service.orphans(), timeout=_ORPHAN_SECONDS)
        result.errors += [f"process {process.pid} outlived its parent" for process in alive]
        check_adaptations(service, client.accepted, result)
        # The faults may have stopped all workers, so that one must start first.
        bound = LEASE_SECONDS + REAP_SECONDS + SECONDS_AFTER_REAPING + start_seconds
        check_recovery(service, injector.interruptions, bound, result)
        check_vectors(service, result, str(backbone), str(subspace))
    return result


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + _STUCK_SECONDS
    while not (all(map(_is_ready, service.api_urls)) and _count_workers(service) == len(service.workers)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service does not start; see {service.folder / 'log'}")
        time.sleep(_TICK_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _count_workers(service: Service) -> int:
    with transaction(service.engine) as session:
        return session.scalar(select(func.count()).select_from(Worker)) or 0


def _inject_faults(
    service: Service,
    client: Client,
    injector: FaultInjector,
    result: Result,
    max_faults: int,
    pause: float,
    log: Callable[[str], None],
) -> None:
    began = changed_at = logged_at = time.monotonic()
    next_fault_at = began + pause
    states: Counter[str] = Counter()
    while True:
        time.sleep(_TICK_SECONDS)
        now = time.monotonic()
        service.restart_ended()
        injector.end_expired()
        injected = sum(result.faults.values())
        if now >= next_fault_at and injected < max_faults and (name := injector.inject()):
            next_fault_at = now + injector.random_pause(pause)
            log(f"{now - began:6.1f} s  {name}")
        result.most_connections = max(result.most_connections, count_connections(service))
        new_states = _count_states(service)
        if new_states is not None:
            if new_states != states:
                states, changed_at = new_states, now
            if client.done and new_states.total() == sum(new_states[state] for state in FINISHED):
                break
        if now - changed_at > _STUCK_SECONDS:
            raise RuntimeError(f"no adaptation has changed for {_STUCK_SECONDS:.0f} s: {dict(states)}")
        if now - logged_at >= _LOG_SECONDS:
            logged_at = now
            counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            log(f"{now - began:6.1f} s  {injected} faults; {len(client.accepted)} accepted: {counts}")
    injector.end_all()


def _count_states(service: Service) -> Counter[str] | None:
    """Return the number of adaptations in each state, or None while the database is down."""
    try:
        with transaction(service.engine) as session:
            return Counter(session.scalars(select(Adaptation.state)))
    except SQLAlchemyError:
        return None
