"""The order in which workers claim the adaptations of several tenants."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select, text, update

from app.db import migrate
from app.db.models import Adaptation, SubspaceRow, Task, Tenant
from app.db.session import transaction
from app.queue import claiming, lifecycle, turns
from tests.support.claims import SUBSPACE
from tests.support.jobs import Enqueue

Claim = Callable[..., list[str]]
Finish = Callable[[], None]


@pytest.fixture
def claim(engine: Engine) -> Claim:
    """Return a function that claims adaptations and returns their tenants, in order."""
    with transaction(engine) as session:
        session.add(SubspaceRow(id=SUBSPACE, intrinsic_dim=4, prompt_length=2, hidden_size=8, manifest={}))

    def claim(free_slots: int = 8, protected: int = 0) -> list[str]:
        with transaction(engine) as session:
            claimed = claiming.claim(
                session,
                subspace_ids=[SUBSPACE],
                worker_id="w",
                lease_seconds=60,
                free_slots=free_slots,
                protected=protected,
            )
            return [session.get_one(Adaptation, job.lease.adaptation_id).tenant_id for job in claimed]

    return claim


@pytest.fixture
def finish(engine: Engine) -> Finish:
    """Return a function that finishes every running adaptation."""

    def finish() -> None:
        with transaction(engine) as session:
            session.execute(update(Adaptation).where(Adaptation.state == "running").values(state="succeeded"))

    return finish


def queue(enqueue: Enqueue, tenants: str, **columns: object) -> None:
    """Queue an adaptation for each letter of `tenants`; a letter is a tenant's id."""
    for tenant in tenants:
        enqueue(tenant=tenant, **columns)


def test_a_long_queue_of_one_tenant_starves_no_other_tenant(enqueue: Enqueue, claim: Claim) -> None:
    queue(enqueue, "aaaaaaaaaaaabbc")
    assert claim(free_slots=6) == ["a", "b", "c", "a", "b", "a"]


def test_the_tenant_with_fewer_running_adaptations_is_served_first(enqueue: Enqueue, claim: Claim) -> None:
    queue(enqueue, "aaaaaa")
    assert claim(free_slots=3) == ["a", "a", "a"]
    queue(enqueue, "bbbbb")
    assert claim(free_slots=3, protected=3) == ["b", "b", "b"]
    assert claim(free_slots=4, protected=6) == ["a", "b", "a", "b"]


def test_tenants_take_turns_with_one_slot(enqueue: Enqueue, claim: Claim, finish: Finish) -> None:
    queue(enqueue, "aaaaabbbcc")
    served = []
    for _ in range(10):
        served += claim(free_slots=1)
        finish()
    assert "".join(served) == "abcabcabaa"


def test_a_new_tenant_is_served_before_a_served_tenant(enqueue: Enqueue, claim: Claim, finish: Finish) -> None:
    queue(enqueue, "aaab")
    assert claim(free_slots=2) == ["a", "b"]
    finish()
    queue(enqueue, "c")
    assert claim(free_slots=1) == ["c"]


def test_many_tenants_share_few_slots(enqueue: Enqueue, claim: Claim, finish: Finish) -> None:
    queue(enqueue, "aaaabcdefgh")
    served = []
    for _ in range(4):
        served += claim(free_slots=2)
        finish()
    assert sorted(served) == list("abcdefgh")


def test_a_retry_gets_its_turn_alone_for_any_length_of_other_queues(
    enqueue: Enqueue, claim: Claim, finish: Finish
) -> None:
    queue(enqueue, "bbbbbbbbcccccccc")
    queue(enqueue, "a", attempt=1)
    assert claim(free_slots=4) == ["b", "c"], "an adaptation behind the retry overtook it"
    assert claim(free_slots=2, protected=2) == [], "an adaptation overtook a retry that waits for the batch"
    finish()
    assert claim(free_slots=4) == ["a"]
    finish()
    assert claim(free_slots=4) == ["b", "c", "b", "c"]


def test_many_retries_starve_no_other_tenant(enqueue: Enqueue, claim: Claim, finish: Finish) -> None:
    queue(enqueue, "aaaa", attempt=1)
    queue(enqueue, "bbb")
    served = []
    for _ in range(6):
        served.append(claim(free_slots=4))
        finish()
    assert served == [["a"], ["b"], ["a"], ["b"], ["a"], ["b"]]


def test_a_claim_reads_no_finished_adaptations(engine: Engine, enqueue: Enqueue, claim: Claim) -> None:
    repeat = text("""
        INSERT INTO adaptations SELECT (jsonb_populate_record(
            first, jsonb_build_object('id', first.id || number, 'task_version', number)
        )).* FROM adaptations AS first, generate_series(2, 5000) AS number
    """)
    enqueue(tenant="finished")
    enqueue(tenant="waits")
    with transaction(engine) as session:
        session.execute(repeat)
        session.execute(update(Adaptation).where(Adaptation.tenant_id == "finished").values(state="cancelled"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    read = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'adaptations'")
    with transaction(engine) as session:
        assert len(turns.lock_next(session, [SUBSPACE], 8)) == 8
        assert session.scalars(read).one() < 100


def waiting_tenants(engine: Engine) -> set[str]:
    with transaction(engine) as session:
        return set(session.scalars(select(Tenant.id).where(Tenant.waiting_since.is_not(None))))


def clear_idle_tenants(engine: Engine) -> None:
    with transaction(engine) as session:
        turns.clear_idle_tenants(session)


def test_an_idle_tenant_is_cleared_until_it_queues_again(
    engine: Engine, enqueue: Enqueue, claim: Claim, finish: Finish
) -> None:
    queue(enqueue, "ab")
    assert claim(free_slots=1) == ["a"]
    clear_idle_tenants(engine)
    assert waiting_tenants(engine) == {"a", "b"}, "a tenant with a running or queued adaptation was cleared"
    finish()
    clear_idle_tenants(engine)
    assert waiting_tenants(engine) == {"b"}
    queue(enqueue, "a")
    assert claim() == ["b", "a"]


def test_a_tenant_with_an_uncommitted_insert_is_not_cleared(
    engine: Engine, enqueue: Enqueue, claim: Claim, finish: Finish
) -> None:
    queue(enqueue, "a")
    claim()
    finish()
    with transaction(engine) as session:
        [finished] = session.scalars(select(Adaptation))
        session.add(Task(id="tsk_new", tenant_id="a", name="new", last_version=1))
        session.flush()
        new = Adaptation(
            id="adp_new", tenant_id="a", task_id="tsk_new", task_version=1, dataset_id=finished.dataset_id,
            kind=finished.kind, hyperparameters={}, body_hash="",
        )  # fmt: skip
        lifecycle.enqueue(session, new)
        clear_idle_tenants(engine)
    assert claim() == ["a"]


def test_the_migration_finds_tenants_that_already_wait(engine: Engine, enqueue: Enqueue, claim: Claim) -> None:
    queue(enqueue, "ab")
    migrate.downgrade(engine, "0005")
    migrate.upgrade(engine)
    assert sorted(claim()) == ["a", "b"]


def test_concurrent_claims_take_every_adaptation_once(engine: Engine, enqueue: Enqueue, claim: Claim) -> None:
    queue(enqueue, "aaaaaaaaabbbbbbccc")

    def work(_: int) -> list[str]:
        return [tenant for _ in range(12) for tenant in claim(free_slots=2)]

    with ThreadPoolExecutor(6) as workers:
        claimed = [tenant for part in workers.map(work, range(6)) for tenant in part]
    assert sorted(claimed) == list("aaaaaaaaabbbbbbccc")
    with transaction(engine) as session:
        assert set(session.scalars(select(Adaptation.attempt))) == {1}
