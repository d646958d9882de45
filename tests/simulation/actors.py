"""What clients and workers do: the scripts of the simulation, with the order of `worker.drain`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.database import DatabaseError
from tests.simulation.statements import Lease

if TYPE_CHECKING:
    from tests.simulation.history import Actor, History, Run

JOB_STEPS = 3
CAPACITY = 2
POSTS = 3


def client(history: "History", actor: "Actor", tenant: str) -> "Run":
    """Post adaptations, and repeat each request with its key until it is answered; also cancel, pause and delete.

    What a client pauses, it resumes in the end.
    """
    yield "start"
    accepted: list[tuple[str, str]] = []
    paused: list[str] = []
    for number in range(POSTS):
        key = f"k{number}"
        new_id, task = (f"{kind}_{number}_{actor.name[-1]}" for kind in ("adp", "tsk"))
        task_id = history.random.choice([None, *(task_id for _, task_id in accepted)])
        answer: Any = None
        while True:
            try:
                answer = yield from history.transaction(actor, "post", tenant, key, new_id, task_id, task)
            except DatabaseError:
                if history.recovering and history.random.random() < 0.5:
                    break  # a caller that gives up was promised nothing
                continue
            break
        if answer is not None:
            history.invariants.record_accepted(tenant, key, answer)
            accepted.append(answer)
        if accepted and not history.recovering and history.random.random() < 0.4:
            adaptation_id, task_id = history.random.choice(accepted)
            try:
                kind = history.random.choice(("cancel", "cancel", "pause", "pause", "resume", "delete", "delete"))
                if kind == "pause":
                    paused.append(adaptation_id)
                if kind != "delete":
                    yield from history.transaction(actor, kind, tenant, adaptation_id)
                else:
                    history.invariants.record_deletion(task_id)
                    yield from history.transaction(actor, "delete", tenant, task_id)
            except DatabaseError:
                continue
    while paused:
        try:
            yield from history.transaction(actor, "resume", tenant, paused[-1])
        except DatabaseError:
            continue
        paused.pop()


@dataclass(slots=True)
class Job:
    lease: Lease
    step: int
    unreported: bool = False


class Worker:
    """The memory of a worker: its jobs, and the outcomes that the database does not have yet."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.outcomes: list[tuple[Any, ...]] = []


def worker(history: "History", actor: "Actor") -> "Run":
    """Exchange with the database, advance every job by a step, and so on, until the worker is killed."""
    yield "start"
    state, expired = Worker(), False
    while True:
        try:
            yield from _store(history, actor, state)
            yield from _check(history, actor, state)
            yield from _renew(history, actor, state)
            if not expired:
                yield from history.transaction(actor, "expire_leases", actor.name)
                expired = True
            if history.random.random() < 0.3:
                yield from history.transaction(actor, "reap")
            yield from _claim(history, actor, state)
        except DatabaseError:
            yield "backoff"
        _step(history, state)
        if history.random.random() < 0.05:
            for job in state.jobs.values():
                state.outcomes.append(("release", job.lease, "worker_stopped", job.step))
            state.jobs.clear()
        yield "step"


def _store(history: "History", actor: "Actor", state: Worker) -> "Run":
    while state.outcomes:
        yield from history.transaction(actor, *state.outcomes[0])
        del state.outcomes[0]


def _check(history: "History", actor: "Actor", state: Worker) -> "Run":
    if not state.jobs:
        return
    demands = yield from history.transaction(actor, "check_leases", [job.lease for job in state.jobs.values()])
    for adaptation_id, job in list(state.jobs.items()):
        demand = demands.get(adaptation_id)
        if adaptation_id not in demands or demand is not None:
            del state.jobs[adaptation_id]
        if demand == "cancel":
            state.outcomes.append(("cancel_running", job.lease))
        elif demand == "pause":
            state.outcomes.append(("release", job.lease, "pause_requested", job.step))
    yield from _store(history, actor, state)


def _renew(history: "History", actor: "Actor", state: Worker) -> "Run":
    for adaptation_id, job in list(state.jobs.items()):
        if not job.unreported:
            continue
        with_event = history.random.random() < 0.5
        if (yield from history.transaction(actor, "renew", job.lease, job.step, with_event)):
            job.unreported = False
        else:
            del state.jobs[adaptation_id]


def _claim(history: "History", actor: "Actor", state: Worker) -> "Run":
    retry = any(job.lease.attempt > 1 for job in state.jobs.values())
    preemptible = history.random.random() < 0.5
    slots = CAPACITY if retry else CAPACITY - len(state.jobs)
    protected = 0 if preemptible else len(state.jobs)
    if state.jobs and (retry or not slots) and not preemptible:
        return
    batch = [(job.lease, job.step) for job in state.jobs.values()]
    leases, preempted = yield from history.transaction(
        actor, "claim", actor.name, slots, protected, batch, history.tokens
    )
    if preempted:
        state.jobs.clear()
    for lease in leases:
        history.invariants.record_claim(lease, state)
        state.jobs[lease.adaptation_id] = Job(lease, lease.step)


def _step(history: "History", state: Worker) -> None:
    for adaptation_id, job in list(state.jobs.items()):
        job.step, job.unreported = job.step + 1, True
        number = 1.0 if history.recovering else history.random.random()
        if number < history.error_rate:
            history.invariants.record_error(adaptation_id)
            state.outcomes.append(("retry", job.lease))
        elif number < history.error_rate * 1.1:
            history.invariants.record_rejection(adaptation_id)
            state.outcomes.append(("fail", job.lease))
        elif job.step >= JOB_STEPS:
            state.outcomes.append(("succeed", job.lease))
        else:
            continue
        del state.jobs[adaptation_id]
