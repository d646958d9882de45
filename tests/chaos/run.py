"""One run: adaptations are sent to a service whose every part is killed, stopped and frozen meanwhile, by a seed."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

import ipt
from app.db.models import FINISHED, Adaptation, AdaptationEvent, Task, TaskVersion, Worker
from app.db.session import transaction
from ipt.tuning import program
from tests.chaos.processes import TENANTS, Process, Service, running
from tests.support.jobs import EXAMPLES

LEASE_SECONDS = 3.0
# Far more than the disturbances can use up, so that every adaptation has to succeed.
MAX_ATTEMPTS = 200
STEPS = 250
# Different results, so that one that went to another's task is found out.
DISTINCT = 20
# Processes that start slowly, on a slow or busy machine, are disturbed in longer intervals.
_STARTS_PER_PAUSE = 0.2
# Longer than any of the parts needs to start again.
_STUCK_SECONDS = 300.0
# A pool's process whose parent was killed ends by itself when it has nothing more to do.
_ORPHAN_SECONDS = 30.0
_TICK_SECONDS = 0.1


@dataclass
class Outcome:
    """What a run did, and everything that should not have happened."""

    adaptations: int
    disturbances: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    attempts: list[int] = field(default_factory=list)
    taken_up: list[int] = field(default_factory=list)
    ended_in: list[tuple[float, str]] = field(default_factory=list)
    """Seconds from SIGTERM to the end, of workers and API processes, each with its name."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Caller:
    """Sends the adaptations one by one, each again and again, under one key, until an API process has taken it."""

    def __init__(self, service: Service, count: int, seconds: float, seed: int) -> None:
        self._service, self._count, self._pause = service, count, seconds / count
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="caller", daemon=True)
        self.accepted: dict[int, set[str]] = {}
        self.refused: list[str] = []

    def __enter__(self) -> "Caller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _send_all(self) -> None:
        with httpx.Client(timeout=20, trust_env=False) as http:
            for number in range(self._count):
                while not self._stop.is_set() and number not in self.accepted:
                    self._send(http, number)
                self._stop.wait(self._random.uniform(0, 2 * self._pause))

    def _send(self, http: httpx.Client, number: int) -> None:
        url = f"{self._random.choice(self._service.api_urls)}/v1/adaptations"
        try:
            response = http.post(url, json=body(number), headers=self._headers(number))
        except httpx.TransportError:
            self._stop.wait(0.1)
            return
        if response.status_code == 202:
            self.accepted.setdefault(number, set()).add(response.json()["id"])
            # A caller who never got the answer would ask once more.
            if self._random.random() < 0.2:
                self._again(http, number)
        elif response.status_code == 503:
            self._stop.wait(0.2)
        else:
            self.refused.append(f"POST answered {response.status_code}: {response.text}")
            self._stop.wait(0.2)

    def _again(self, http: httpx.Client, number: int) -> None:
        url = f"{self._random.choice(self._service.api_urls)}/v1/adaptations"
        try:
            response = http.post(url, json=body(number), headers=self._headers(number))
        except httpx.TransportError:
            return
        if response.status_code == 202:
            self.accepted[number].add(response.json()["id"])

    def _headers(self, number: int) -> dict[str, str]:
        return {
            "authorization": f"Bearer {self._service.keys[tenant_of(number)]}",
            "idempotency-key": f"chaos-{number}",
        }


class Disturber:
    """Causes one disturbance after another, each kind once before any comes again."""

    def __init__(self, service: Service, seed: int, counts: Counter[str]) -> None:
        self._service, self._counts = service, counts
        self._random = random.Random(seed)
        self._bag: list[tuple[str, Callable[[], bool]]] = []
        self._later: list[tuple[float, Callable[[], None]]] = []

    def tick(self) -> None:
        """Undo what lasts for a while and is over."""
        now = time.monotonic()
        due = [undo for at, undo in self._later if at <= now]
        self._later = [(at, undo) for at, undo in self._later if at > now]
        for undo in due:
            undo()

    def calm(self) -> None:
        """Undo all that still lasts."""
        for _, undo in self._later:
            undo()
        self._later.clear()

    def disturb(self) -> str:
        """Cause the next disturbance that finds something to disturb; returns its name, empty where none does now."""
        if not self._bag:
            self._bag = list(self._kinds().items())
            self._random.shuffle(self._bag)
        for index, (name, cause) in enumerate(self._bag):
            if cause():
                del self._bag[index]
                self._counts[name] += 1
                return name
        return ""

    def _kinds(self) -> dict[str, Callable[[], bool]]:
        service = self._service
        return {
            "worker killed (SIGKILL, with its children)": lambda: self._one_of(service.workers, Process.kill),
            "worker told to end (SIGTERM)": lambda: self._one_of(service.workers, Process.terminate),
            "worker frozen past its lease (SIGSTOP, SIGCONT)": lambda: self._one_of(service.workers, self._freeze),
            "pool process of a Celery worker killed": lambda: self._one_of(
                service.celery_workers, lambda process: process.kill_child()
            ),
            "Celery's own process killed, its pool process left alone": lambda: self._one_of(
                service.celery_workers, Process.kill_parent
            ),
            "API process killed (SIGKILL)": lambda: self._one_of(service.apis, Process.kill),
            "API process told to end (SIGTERM)": lambda: self._one_of(service.apis, Process.terminate),
            "Redis killed and started empty": lambda: self._one_of([service.redis], Process.kill),
            "all connections to PostgreSQL cut": self._cut_connections,
            "PostgreSQL killed (SIGKILL)": lambda: self._kill_postgres(signal.SIGKILL),
            "PostgreSQL stopped at once (SIGQUIT)": lambda: self._kill_postgres(signal.SIGQUIT),
        }

    def _one_of(self, processes: list[Process], act: Callable[[Process], object]) -> bool:
        """Disturb one that is at work if there is such: an idle one has nothing to lose."""
        able = [process for process in processes if process.can_be_disturbed]
        at_work = _at_work(self._service)
        able = [process for process in able if at_work & process.pids()] or able
        return bool(able) and act(self._random.choice(able)) is not False

    def _freeze(self, process: Process) -> None:
        process.freeze()
        self._later.append((time.monotonic() + LEASE_SECONDS * self._random.uniform(1.2, 2.0), process.thaw))

    def _cut_connections(self) -> bool:
        cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        try:
            with transaction(self._service.engine) as session:
                mine = "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                return bool(session.execute(text(f"{cut} {mine}")).scalar())
        except SQLAlchemyError:
            return False  # it is away already

    def _kill_postgres(self, number: signal.Signals) -> bool:
        try:
            self._service.kill_postgres(number)
        except (OSError, ValueError, IndexError):
            return False  # it is away already
        return True


def tenant_of(number: int) -> str:
    return TENANTS[number % len(TENANTS)]


def body(number: int) -> dict[str, Any]:
    """The request that makes the adaptation of this number."""
    return {
        "name": f"chaos {number}",
        "examples": EXAMPLES,
        "hyperparameters": hyperparameters(number),
        "metadata": {"number": str(number)},
    }


def hyperparameters(number: int) -> dict[str, Any]:
    return {"steps": STEPS, "batch_size": 8, "learning_rate": 0.002, "seed": number % DISTINCT}


def run(
    folder: Path,
    backbone: Path,
    subspace: Path,
    *,
    adaptations: int,
    seed: int,
    disturbances: int,
    say: Callable[[str], None],
) -> Outcome:
    """Send the adaptations and disturb until all have ended, at most `disturbances` times; then check everything.

    Args:
        folder: an empty one, for PostgreSQL and the log of all processes.
    """
    settings = {
        "IPT_BACKBONE": str(backbone),
        "IPT_SUBSPACE": str(subspace),
        "IPT_DEVICE": "cpu",
        "IPT_LEASE_SECONDS": str(LEASE_SECONDS),
        "IPT_HEARTBEAT_SECONDS": "0.5",
        "IPT_REAP_SECONDS": "1",
        "IPT_POLL_SECONDS": "0.2",
        "IPT_CHECKPOINT_EVERY_STEPS": "5",
        "IPT_JOBS_PER_BATCH": "4",
        "IPT_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    }
    outcome = Outcome(adaptations)
    with running(folder, settings) as service:
        began = time.monotonic()
        _wait_until_ready(service)
        pause = _STARTS_PER_PAUSE * (time.monotonic() - began)
        say(f"ready after {time.monotonic() - began:.1f} s; a disturbance every {pause:.1f} s")
        began = time.monotonic()
        # New adaptations arrive for as long as there are disturbances.
        with Caller(service, adaptations, disturbances * pause, seed) as caller:
            _disturb(service, caller, outcome, seed, disturbances, pause, say)
        outcome.seconds = time.monotonic() - began
        outcome.wrong += caller.refused
        outcome.ended_in += [
            (seconds, process.name) for process in (*service.apis, *service.workers) for seconds in process.ended_in
        ]
        _, alive = psutil.wait_procs(service.left_behind(), timeout=_ORPHAN_SECONDS)
        outcome.wrong += [f"process {process.pid} was left behind" for process in alive]
        _check(service, caller.accepted, outcome)
        _check_vectors(service, outcome, str(backbone), str(subspace))
    return outcome


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + _STUCK_SECONDS
    while not (all(map(_ready, service.api_urls)) and _workers(service) == len(service.workers)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service does not start: see {service.folder / 'log'}")
        time.sleep(_TICK_SECONDS)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _workers(service: Service) -> int:
    with transaction(service.engine) as session:
        return session.scalar(select(func.count()).select_from(Worker)) or 0


def _disturb(
    service: Service, caller: Caller, outcome: Outcome, seed: int, most: int, pause: float, say: Callable[[str], None]
) -> None:
    disturber = Disturber(service, seed, outcome.disturbances)
    chance = random.Random(seed)
    began = moved_at = said_at = time.monotonic()
    next_at = began + pause
    before: Counter[str] = Counter()
    while True:
        time.sleep(_TICK_SECONDS)
        now = time.monotonic()
        service.keep()
        disturber.tick()
        happened = sum(outcome.disturbances.values())
        if now >= next_at and happened < most:
            next_at = now + chance.uniform(0.5, 1.5) * pause
            if name := disturber.disturb():
                say(f"{now - began:6.1f} s  {name}")
        states = _states(service)
        if states is not None:
            if states != before:
                before, moved_at = states, now
            if caller.done and states.total() == sum(states[state] for state in FINISHED):
                break
        if now - moved_at > _STUCK_SECONDS:
            raise RuntimeError(f"nothing has moved for {_STUCK_SECONDS:.0f} s: {dict(before)}")
        if now - said_at >= 10:
            said_at = now
            shown = ", ".join(f"{count} {state}" for state, count in sorted(before.items()))
            say(f"{now - began:6.1f} s  {happened} disturbances; {len(caller.accepted)} accepted: {shown}")
    disturber.calm()


def _at_work(service: Service) -> set[int]:
    """The numbers of the processes that hold an adaptation; a worker's id says which it is."""
    try:
        with transaction(service.engine) as session:
            ids = session.scalars(select(Adaptation.worker_id).where(Adaptation.state == "running")).all()
    except SQLAlchemyError:
        return set()
    return {int(worker_id.split(":")[1]) for worker_id in ids if worker_id is not None}


def _states(service: Service) -> Counter[str] | None:
    """How many adaptations are in which state; None while the database is away."""
    try:
        with transaction(service.engine) as session:
            return Counter(session.scalars(select(Adaptation.state)))
    except SQLAlchemyError:
        return None


def _check(service: Service, accepted: dict[int, set[str]], outcome: Outcome) -> None:
    """Every adaptation that was accepted is there and ended once, and there is none besides."""
    with transaction(service.engine) as session:
        rows = {row.id: row for row in session.scalars(select(Adaptation))}
        tasks = set(session.scalars(select(Task.id)))
        versions = Counter(session.scalars(select(TaskVersion.adaptation_id)))
        histories: dict[str, list[AdaptationEvent]] = {}
        for event in session.scalars(select(AdaptationEvent).order_by(AdaptationEvent.seq)):
            histories.setdefault(event.adaptation_id, []).append(event)
    for number in range(outcome.adaptations):
        ids = accepted.get(number, set())
        outcome.lost += [f"{number}: never accepted"] if not ids else []
        outcome.lost += [f"{number}: {one} was accepted and is not there" for one in ids if one not in rows]
        outcome.doubled += [f"{number}: accepted as {sorted(ids)}"] if len(ids) > 1 else []
    numbers = Counter(row.metadata_["number"] for row in rows.values())
    outcome.doubled += [f"{number}: {count} adaptations" for number, count in numbers.items() if count > 1]
    outcome.doubled += [f"{len(tasks)} tasks of {len(rows)} adaptations"] if len(tasks) != len(rows) else []
    for row in rows.values():
        history = histories.get(row.id, [])
        kinds = Counter(event.type for event in history)
        endings = sum(kinds[state] for state in FINISHED)
        if row.state != "succeeded":
            outcome.lost.append(f"{row.id} {row.state}: {row.error}")
        if endings > 1 or versions[row.id] > 1:
            outcome.doubled.append(f"{row.id}: {endings} endings, {versions[row.id]} task versions")
        if endings < 1 or versions[row.id] < 1:
            outcome.lost.append(f"{row.id}: {endings} endings, {versions[row.id]} task versions")
        if [event.seq for event in history] != list(range(1, len(history) + 1)):
            outcome.wrong.append(f"{row.id}: events are numbered {[event.seq for event in history]}")
        if history and history[-1].type != row.state:
            outcome.wrong.append(f"{row.id}: its last event is {history[-1].type}")
        if row.tenant_id != tenant_of(int(row.metadata_["number"])):
            outcome.wrong.append(f"{row.id}: belongs to tenant {row.tenant_id}")
        if row.lease_token is not None or row.checkpoint is not None:
            outcome.wrong.append(f"{row.id}: has ended and keeps its lease or checkpoint")
        handed_back = sum(event.data.get("reason") in ("worker_stopped", "made_way") for event in history)
        if row.attempt > MAX_ATTEMPTS or kinds["running"] - handed_back != row.attempt:
            outcome.wrong.append(f"{row.id}: {row.attempt} attempts, {kinds['running']} starts, {handed_back} back")
        outcome.attempts.append(row.attempt)
        outcome.taken_up.append(kinds["running"])


def _check_vectors(service: Service, outcome: Outcome, backbone_dir: str, subspace_dir: str) -> None:
    """Every stored vector is the one that an undisturbed run gives."""
    backbone = ipt.load_backbone(backbone_dir, device="cpu")
    engine = ipt.TuningEngine(backbone, ipt.load_subspace(subspace_dir, backbone))
    examples = [ipt.Example(**example) for example in EXAMPLES]
    for number in range(min(DISTINCT, outcome.adaptations)):
        wanted = ipt.Hyperparameters(**hyperparameters(number))
        engine.add(ipt.TuningJob(str(number), examples, "classification", None, wanted))
    expected: dict[int, Any] = {}
    keep, program.KEEP_NATS = program.KEEP_NATS, -1e9
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for each other longer than they compute
    try:
        while engine.job_ids:
            for done in [progress for progress in engine.step() if progress.done]:
                expected[int(done.job_id)] = engine.finish(done.job_id).head.vector
    finally:
        program.KEEP_NATS = keep
        torch.set_num_threads(threads)
    different = {vector.tobytes() for vector in expected.values()}
    assert len(different) == len(expected), "results that are equal cannot be told apart"
    with transaction(service.engine) as session:
        stored = session.execute(
            select(Adaptation.metadata_, TaskVersion.vector).join(
                TaskVersion, TaskVersion.adaptation_id == Adaptation.id
            )
        ).all()
    for metadata, vector in stored:
        number = int(metadata["number"])
        if not np.allclose(np.asarray(vector), expected[number % DISTINCT], rtol=1e-4, atol=1e-5):
            outcome.wrong.append(f"{number}: its vector is not that of an undisturbed run")
