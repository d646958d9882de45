"""Turns of batches: leases, lost processes, cancellation, expiry, fairness and a busy service."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy import Engine, func, select, update

from app.db.file_models import Batch, BatchRequestRow, File, FilePart
from app.db.models import Tenant
from app.db.session import transaction
from app.fairness.background import Foreground
from app.openai.batches import repository, runner, service
from app.openai.batches.repository import Answered
from app.openai.batches.requests import BatchRequest
from app.openai.batches.runner import BatchRunner
from app.openai.files import repository as files_repository

AddBatch = Callable[..., str]


class Answering:
    """Answers with the line's number; `answered` has (batch, lines) of each turn."""

    def __init__(self) -> None:
        self.answered: list[tuple[str, list[int]]] = []
        self.before: Callable[[], None] = lambda: None
        self.most = 1000

    async def answer(self, batch: Batch, requests: Sequence[BatchRequestRow]) -> list[Answered]:
        if not requests:
            return []
        self.before()
        lines = [request.line for request in requests][: self.most]
        self.answered.append((batch.id, lines))
        return [Answered(line, 200 if line % 2 else 400, str(line)) for line in lines]


@pytest.fixture
def answering() -> Answering:
    return Answering()


@pytest.fixture
def batches(engine: Engine, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> BatchRunner:
    monkeypatch.setattr(runner, "PIECE", 4)
    return BatchRunner(engine, Foreground(0), cast(Any, answering))


@pytest.fixture
def add(engine: Engine) -> AddBatch:
    """Add a batch of some requests for a tenant, and return its id."""

    def add(requests: int = 10, tenant: str = "a") -> str:
        with transaction(engine) as session:
            session.merge(Tenant(id=tenant))
            session.flush()
            lines = [BatchRequest(line, f"r{line}", "/v1/embeddings", "{}") for line in range(1, requests + 1)]
            batch = repository.add(
                session,
                tenant,
                endpoint="/v1/embeddings",
                input_file_id="file-1",
                metadata={},
                requests=lines,
                lifetime=timedelta(hours=1),
            )
            return batch.id

    return add


def turns(batches: BatchRunner, most: int = 100) -> int:
    """Take turns until there is nothing to do, and return their number."""

    async def main() -> int:
        for number in range(most):
            if not await batches._take_turn():
                return number
        return most

    return asyncio.run(main())


def read(engine: Engine, batch_id: str) -> tuple[Batch, dict[str, str]]:
    """Return a batch and the contents of its files."""
    with transaction(engine) as session:
        batch = session.get_one(Batch, batch_id)
        ids = {"output": batch.output_file_id, "error": batch.error_file_id}
        parts = select(FilePart.content).order_by(FilePart.number)
        files = {
            name: b"".join(session.scalars(parts.where(FilePart.file_id == file_id))).decode()
            for name, file_id in ids.items()
            if file_id
        }
        sizes = [session.get_one(File, file_id).size for file_id in ids.values() if file_id]
        assert sizes == [len(content) for content in files.values()]
        return batch, files


def test_a_batch_is_answered_in_pieces(
    engine: Engine, batches: BatchRunner, answering: Answering, add: AddBatch
) -> None:
    batch_id = add(10)
    assert turns(batches) == 3
    assert answering.answered == [(batch_id, [1, 2, 3, 4]), (batch_id, [5, 6, 7, 8]), (batch_id, [9, 10])]
    batch, files = read(engine, batch_id)
    assert (batch.state, batch.completed, batch.failed, batch.lease_token) == ("completed", 5, 5, None)
    assert files == {"output": "1\n3\n5\n7\n9\n", "error": "2\n4\n6\n8\n10\n"}
    with transaction(engine) as session:
        assert session.execute(select(func.count()).select_from(BatchRequestRow)).scalar_one() == 0


def test_the_files_of_a_batch_are_written_in_parts(
    engine: Engine, batches: BatchRunner, add: AddBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_repository, "PART_BYTES", 4)
    monkeypatch.setattr(repository, "_ROWS_AT_ONCE", 3)
    batch_id = add(12)
    turns(batches)
    batch, files = read(engine, batch_id)
    assert files == {"output": "1\n3\n5\n7\n9\n11\n", "error": "2\n4\n6\n8\n10\n12\n"}
    with transaction(engine) as session:
        parts = select(FilePart.content).where(FilePart.file_id == batch.output_file_id).order_by(FilePart.number)
        assert session.scalars(parts).all() == [b"1\n3\n", b"5\n7\n", b"9\n11\n"]
        session.delete(session.get_one(File, batch.output_file_id))
        session.flush()
        assert session.scalars(parts).all() == []


def test_the_piece_of_a_lost_process_is_answered_again_once_its_lease_has_expired(
    engine: Engine, batches: BatchRunner, answering: Answering, add: AddBatch
) -> None:
    batch_id = add(6)
    assert turns(batches, most=1) == 1
    lost = batches._claim()
    assert lost is not None
    assert turns(batches) == 0  # another process has the lease
    with transaction(engine) as session:
        session.execute(update(Batch).values(lease_until=func.now() - timedelta(seconds=1)))
    assert turns(batches) == 1
    assert answering.answered == [(batch_id, [1, 2, 3, 4]), (batch_id, [5, 6])]
    batches._store(lost[0], [Answered(5, 400, "late"), Answered(6, 400, "late")])
    batch, files = read(engine, batch_id)
    assert (batch.state, batch.completed + batch.failed) == ("completed", 6)
    assert "late" not in files["output"] + files["error"]


def test_a_process_that_stops_releases_its_piece_at_once(
    engine: Engine, batches: BatchRunner, answering: Answering, add: AddBatch
) -> None:
    batch_id = add(2)

    def stop() -> None:
        raise asyncio.CancelledError

    answering.before = stop
    with pytest.raises(asyncio.CancelledError):
        turns(batches)
    answering.before = lambda: None
    assert turns(batches) == 1
    assert read(engine, batch_id)[0].state == "completed"


def test_a_batch_that_is_cancelled_half_way_keeps_its_responses(
    engine: Engine, batches: BatchRunner, add: AddBatch, answering: Answering
) -> None:
    batch_id = add(10)

    def cancel() -> None:
        with transaction(engine) as session:
            assert service.cancel(session, "a", batch_id).state == "cancelling"

    turns(batches, most=1)
    answering.before = cancel  # while the second piece is answered
    assert turns(batches) == 1
    batch, files = read(engine, batch_id)
    assert (batch.state, batch.completed, batch.failed) == ("cancelled", 4, 4)
    assert files == {"output": "1\n3\n5\n7\n", "error": "2\n4\n6\n8\n"}
    with transaction(engine) as session:
        assert service.cancel(session, "a", batch_id).state == "cancelled"


def test_a_batch_that_is_cancelled_before_its_first_turn_has_no_files(
    engine: Engine, batches: BatchRunner, add: AddBatch
) -> None:
    batch_id = add()
    with transaction(engine) as session:
        service.cancel(session, "a", batch_id)
    turns(batches)
    batch, files = read(engine, batch_id)
    assert (batch.state, files) == ("cancelled", {})


def test_what_the_completion_window_left_unanswered_is_in_the_error_file(
    engine: Engine, batches: BatchRunner, add: AddBatch
) -> None:
    batch_id = add(6)
    turns(batches, most=1)
    with transaction(engine) as session:
        session.execute(update(Batch).values(expires_at=func.now()))
    turns(batches)
    batch, files = read(engine, batch_id)
    assert (batch.state, batch.completed, batch.failed) == ("expired", 2, 4)
    assert files["error"].count("batch_expired") == 2
    assert '"custom_id": "r5"' in files["error"]


def test_tenants_take_turns(batches: BatchRunner, answering: Answering, add: AddBatch) -> None:
    several = [add(8, "a"), add(8, "a")]
    other = add(8, "b")
    turns(batches)
    served = [batch_id for batch_id, _ in answering.answered]
    assert served[:4].count(other) == 2
    assert sorted(served) == sorted([*several, *several, other, other])


def test_a_busy_service_loses_no_request(
    engine: Engine, batches: BatchRunner, answering: Answering, add: AddBatch
) -> None:
    batch_id = add(4)
    answering.most = 1
    assert turns(batches) == 0  # it pauses
    answering.most = 1000
    turns(batches)
    assert answering.answered == [(batch_id, [1]), (batch_id, [2, 3, 4])]
    assert read(engine, batch_id)[0].state == "completed"
