"""The queue keeps its promises in many simulated histories, and the model of the simulation is PostgreSQL's."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.simulation import statements
from tests.simulation.database import Transaction
from tests.simulation.history import History
from tests.simulation.invariants import Violation
from tests.simulation.mirror import Mismatch, NewMirror, mirrored
from tests.simulation.statements import Lease
from tests.simulation.transactions import TRANSACTIONS, Statements

HISTORIES_PER_TEST = 1000
MIRRORED = (0, 1, 2, 80)
"""Seeds; the last history pauses and resumes running and queued adaptations."""


@pytest.fixture
def new_mirror(engine: Engine) -> Iterator[NewMirror]:
    with mirrored(engine) as new_mirror:
        yield new_mirror


@pytest.mark.parametrize("part", range(4))
def test_no_history_breaks_a_promise(part: int) -> None:
    for seed in range(part * HISTORIES_PER_TEST, (part + 1) * HISTORIES_PER_TEST):
        try:
            History(seed).run()
        except (Violation, AssertionError) as error:
            pytest.fail(f"{error}; replay it with: python -m tests.simulation --seed {seed}")


def test_a_seed_replays_its_history() -> None:
    def outcome(seed: int) -> tuple[int, dict[str, object]]:
        history = History(seed)
        history.run()
        return history.steps, history.database.rows

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


@pytest.mark.timeout(300)
def test_postgresql_and_the_code_of_the_queue_do_what_the_model_does(new_mirror: NewMirror) -> None:
    for seed in MIRRORED:
        with new_mirror() as mirror:
            History(seed, mirror).run()


def test_a_model_that_differs_from_the_code_is_noticed(new_mirror: NewMirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_statement_less(tx: Transaction, *arguments: str) -> Statements:
        del arguments
        yield lambda: None
        return None

    monkeypatch.setitem(TRANSACTIONS, "post", one_statement_less)
    with new_mirror() as mirror, pytest.raises(Mismatch, match="post: the code has a statement more"):
        History(0, mirror).run()


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        ("renew", "a write without the lease|state and last event differ"),
        ("lock_expired", "an event is appended without|a valid lease was taken away"),
        ("idle_tenants", "no claim looks at this tenant"),
        ("resume", "no claim looks at this tenant"),
    ],
)
def test_a_broken_queue_is_noticed(broken: str, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def renew_any_lease(tx: Transaction, lease: Lease, step: int) -> bool:
        if tx.get("adaptations", lease.adaptation_id) is None:
            return False
        tx.lock(("adaptations", lease.adaptation_id), "no key update")
        tx.change("adaptations", lease.adaptation_id, step=step)
        return True

    def every_running(tx: Transaction) -> list[tuple[str, dict[str, object]]]:
        return [(i, row) for i, row in tx.scan("adaptations") if row["state"] == "running"]

    def every_tenant(tx: Transaction) -> list[str]:
        return [i for i, _ in tx.scan("tenants")]

    def resume_without_trigger(tx: Transaction, adaptation_id: str) -> None:
        tx.change("adaptations", adaptation_id, state="queued")

    replacements = {
        "renew": renew_any_lease,
        "lock_expired": every_running,
        "idle_tenants": every_tenant,
        "resume": resume_without_trigger,
    }
    monkeypatch.setattr(statements, broken, replacements[broken])
    with pytest.raises((Violation, AssertionError), match=promise):
        _run_histories(300)


def _run_histories(number: int) -> None:
    for seed in range(number):
        History(seed).run()
