"""One history: clients and workers whose statements a seeded schedule interleaves, loses, delays and repeats."""

import random
from collections.abc import Generator
from itertools import count
from typing import Any

from tests.simulation import actors
from tests.simulation.database import Blocked, Database, DatabaseError, Transaction
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.statements import LEASE_SECONDS
from tests.simulation.transactions import TRANSACTIONS, Statement

DONE, LOST, LOST_AFTER, VANISHED = "done", "lost", "lost after", "vanished"
LOCK_SECONDS = 10.0
IDLE_SECONDS = LEASE_SECONDS
STEPS = 120
MOST_STEPS_OF_RECOVERY = 5_000
_STEPS_BETWEEN_CHECKS = 12
TENANTS = ("t0", "t1")
WORKERS = 3

Run = Generator[str, str, Any]


class Actor:
    """A client or a worker in progress; `run` is its script."""

    run: Run

    def __init__(self, name: str) -> None:
        self.name = name
        self.transaction: Transaction | None = None
        self.waits_for: Transaction | None = None
        self.frozen = False


class History:
    """The schedule of one seed. It depends on random numbers only, so the same seed replays it."""

    def __init__(self, seed: int, mirror: Any = None) -> None:
        """`mirror` runs the transactions in PostgreSQL too."""
        self.random = random.Random(seed)
        self.mirror = mirror
        self.database = Database()
        for tenant in TENANTS:
            self.database.rows["tenants"][tenant] = {"served": None, "waiting": None}
        self.invariants = Invariants(self.database)
        self.tokens = count(1)
        self.names = count(1)
        self.recovering = False
        self.steps = 0
        self.points = 0
        # Each history has faults of its own kinds: rare faults need histories without the frequent ones.
        choose = self.random.choice
        self.loss_rate = choose((0.0, 0.0, 0.02, 0.1))
        self.crash_rate = choose((0.0, 0.01, 0.03))
        self.freeze_rate = choose((0.0, 0.01, 0.03))
        self.clock_rate = choose((0.0, 0.02, 0.08))
        self.error_rate = choose((0.0, 0.05, 0.2))
        self.actors: list[Actor] = []
        # Two clients of the first tenant send the same keys, as a client does that does not wait for a lost answer.
        for number, tenant in enumerate((TENANTS[0], *TENANTS)):
            self._add(f"client {number}", lambda actor, tenant=tenant: actors.client(self, actor, tenant))
        for number in range(WORKERS):
            self._start_worker(f"w{number}")

    def run(self) -> None:
        """Run the schedule, then recover without faults until every adaptation has ended.

        Raises:
            Violation: a promise of the queue is broken.
        """
        while self.steps < STEPS:
            self.steps += 1
            self._fault()
            self._advance(self._runnable(), self.loss_rate)
        if self.mirror is not None:
            self.mirror.compare(self.database)
        self.recovering = True
        for actor in self.actors:
            actor.frozen = False
        while not self._ended():
            if self.steps > STEPS + MOST_STEPS_OF_RECOVERY:
                raise Violation(f"without faults, the queue does not empty: {self.invariants.open_adaptations()}")
            self._pass_time(self.random.uniform(0, LEASE_SECONDS / 4))
            for _ in range(_STEPS_BETWEEN_CHECKS):
                self.steps += 1
                self._advance(self._runnable(), 0.0)
        self.invariants.check_end()
        if self.mirror is not None:
            self.mirror.compare(self.database)

    def transaction(self, actor: Actor, name: str, *arguments: Any) -> Run:
        """Run a transaction for an actor; it pauses before each statement and before COMMIT.

        Raises:
            DatabaseError: it has failed, or its outcome is unknown.
        """
        tx: Transaction | None = None
        mirrored: Any = None
        try:
            fate = yield name
            tx = actor.transaction = self.database.begin()
            mirrored = self.mirror and self.mirror.begin(tx, name, arguments)
            if fate != DONE:
                self._lose(tx, fate)
            statements = TRANSACTIONS[name](tx, *arguments)
            try:
                statement = next(statements)
                while True:
                    result = yield from self._execute(actor, tx, statement, mirrored)
                    fate = yield name
                    self._check_alive(tx)
                    if fate not in (DONE, LOST_AFTER):
                        self._lose(tx, fate)
                    statement = statements.send(result)
            except StopIteration as end:
                value = end.value
            if mirrored:
                value = mirrored.result(value)
            tx.commit()
            if mirrored:
                mirrored.commit()
            if fate == LOST_AFTER:
                raise DatabaseError("the answer to COMMIT was lost", unknown=True)
            return value
        finally:
            actor.transaction = actor.waits_for = None
            if tx is not None and fate != VANISHED:
                tx.roll_back()
            if mirrored and (tx is None or tx.ended):
                mirrored.roll_back()

    def _execute(self, actor: Actor, tx: Transaction, statement: Statement, mirrored: Any) -> Run:
        waiting_since: float | None = None
        while True:
            self._check_alive(tx)
            tx.active_at = self.database.now
            try:
                result = statement()
            except Blocked as blocked:
                if mirrored:
                    mirrored.check_blocked()
                actor.waits_for = blocked.holder
                self._check_deadlock(actor)
                waiting_since = waiting_since or self.database.now
                yield "lock"
                actor.waits_for = None
                if self.database.now - waiting_since > LOCK_SECONDS:
                    raise DatabaseError("lock timeout") from None
                continue
            except DatabaseError:
                if mirrored:
                    mirrored.check_error()
                raise
            if mirrored:
                mirrored.execute()
            return result

    def _check_alive(self, tx: Transaction) -> None:
        if tx.ended:
            raise DatabaseError("the server has ended the transaction")

    def _lose(self, tx: Transaction, fate: str) -> None:
        """Fail the transaction; if its connection has vanished, its locks stay until the server's time limit."""
        if fate != VANISHED:
            tx.roll_back()
        raise DatabaseError("the connection was lost", unknown=True)

    def _check_deadlock(self, actor: Actor) -> None:
        waits = {other.transaction: other.waits_for for other in self.actors if other.waits_for is not None}
        seen, tx = {actor.transaction}, actor.waits_for
        while tx is not None and not tx.ended:
            if tx in seen:
                raise Violation(f"deadlock of {[other.name for other in self.actors if other.transaction in seen]}")
            seen.add(tx)
            tx = waits.get(tx)

    def _runnable(self) -> list[Actor]:
        runnable = [
            actor for actor in self.actors if not actor.frozen and (actor.waits_for is None or actor.waits_for.ended)
        ]
        if not runnable:
            self._pass_time(LOCK_SECONDS + 1)
            for actor in self.actors:
                actor.waits_for = None
        return runnable or [actor for actor in self.actors if not actor.frozen]

    def _advance(self, runnable: list[Actor], loss_rate: float) -> None:
        if not runnable:
            return
        actor = runnable[int(self.random.random() * len(runnable))]
        fate = DONE
        if actor.transaction is not None and self.random.random() < loss_rate:
            fate = (LOST, LOST_AFTER, VANISHED)[int(self.random.random() * 3)]
        self.points += 1
        try:
            actor.run.send(fate)
        except StopIteration:
            self.actors.remove(actor)

    def _fault(self) -> None:
        number = self.random.random()
        if number < self.crash_rate:
            self._crash(self._any_worker())
        elif number < self.crash_rate + self.freeze_rate:
            worker = self._any_worker()
            worker.frozen = not worker.frozen
        elif number < self.crash_rate + self.freeze_rate + self.clock_rate:
            self._pass_time(self.random.choice((1, 15, LEASE_SECONDS + 1)))

    def _any_worker(self) -> Actor:
        return self.random.choice([actor for actor in self.actors if actor.name.startswith("w")])

    def _crash(self, worker: Actor) -> None:
        """Kill a worker; its successor has the same id, as under a supervisor, or another one."""
        self.actors.remove(worker)
        worker.run.close()
        name = worker.name if self.random.random() < 0.5 else f"w{next(self.names) + WORKERS}"
        self._start_worker(name)

    def _start_worker(self, name: str) -> None:
        self._add(name, lambda actor: actors.worker(self, actor))

    def _add(self, name: str, script: Any) -> None:
        actor = Actor(name)
        actor.run = script(actor)
        next(actor.run)
        self.actors.append(actor)

    def _pass_time(self, seconds: float) -> None:
        """Let time pass, and end the transactions that have been idle for too long, as the server does."""
        self.database.now += seconds
        waiting = {actor.transaction for actor in self.actors if actor.waits_for is not None}
        for tx in list(self.database.open):
            if tx not in waiting and self.database.now - tx.active_at > IDLE_SECONDS:
                tx.roll_back()
                if self.mirror is not None:
                    self.mirror.end(tx)

    def _ended(self) -> bool:
        clients = any(actor.name.startswith("client") for actor in self.actors)
        return not clients and not self.invariants.open_adaptations()
