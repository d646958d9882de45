"""A database that is down, read-only or full stops no step and loses no result; a rejected write fails one job."""

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL, make_url

import ipt
from app.db.ids import new_id
from app.db.models import TaskVersion
from app.db.session import make_engine, transaction
from app.settings import Settings
from ipt.errors import SubspaceError
from tests.support.drain import STEPS, NewDrainer, run
from tests.support.jobs import EXAMPLES, Enqueue, Row
from worker.drain import Drainer
from worker.lazy_model import LazyModel

pytestmark = pytest.mark.usefixtures("keep_tuned")


class Server:
    """The PostgreSQL server, through a database that stays available."""

    def __init__(self, engine: Engine, database: str) -> None:
        self._engine = engine
        self._database = database

    def alter_database(self, change: str, *, disconnect: bool) -> None:
        """Alter the test's database; existing connections keep the old setting, so `disconnect` ends them."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"ALTER DATABASE {self._database} {change}"))
            if disconnect:
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                    {"name": self._database},
                )


@pytest.fixture
def server(postgres_url: URL, database_url: str) -> Iterator[Server]:
    database = make_url(database_url).database
    assert database is not None
    engine = make_engine(postgres_url.render_as_string(hide_password=False))
    yield Server(engine, database)
    engine.dispose()


def logged(caplog: pytest.LogCaptureFixture, event: str) -> bool:
    return any(record.getMessage().startswith(event) for record in caplog.records)


def test_steps_continue_while_the_database_is_down(
    new_drainer: NewDrainer, server: Server, enqueue: Enqueue, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    steps: list[int] = []

    def come_back() -> None:
        server.alter_database("ALLOW_CONNECTIONS true", disconnect=False)

    back = threading.Timer(1.5, come_back)

    def before_step(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 4:
            server.alter_database("ALLOW_CONNECTIONS false", disconnect=True)
            back.start()

    run(new_drainer(before_step))
    assert row(adaptation_id).state == "succeeded"
    assert logged(caplog, "database_unavailable")


def test_a_read_only_database_fails_no_job(
    new_drainer: NewDrainer, server: Server, enqueue: Enqueue, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    steps: list[int] = []

    def set_read_only(value: str) -> None:
        server.alter_database(f"SET default_transaction_read_only = {value}", disconnect=True)

    back = threading.Timer(1.5, set_read_only, ["off"])

    def before_step(_: ipt.TuningEngine) -> None:
        steps.append(1)
        if len(steps) == 4:
            set_read_only("on")
            back.start()

    run(new_drainer(before_step))
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    assert logged(caplog, "database_unavailable")


def test_a_result_waits_until_a_full_disk_has_space(
    new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    adaptation_id = enqueue(hyperparameters=STEPS)
    with transaction(engine) as session:
        session.execute(
            text(
                "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
            )
        )
        session.execute(text("CREATE TRIGGER full_disk BEFORE INSERT ON task_versions EXECUTE FUNCTION disk_full()"))

    def free_space() -> None:
        deadline = time.monotonic() + 60
        while not logged(caplog, "database_unavailable"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with transaction(engine) as session:
            session.execute(text("DROP TRIGGER full_disk ON task_versions"))

    thread = threading.Thread(target=free_space, daemon=True)
    thread.start()
    run(new_drainer())
    thread.join(60)
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("succeeded", 1)
    with transaction(engine) as session:
        assert session.get(TaskVersion, (row(adaptation_id).task_id, 1)) is not None


def test_an_outcome_that_the_database_rejects_fails_only_its_adaptation(
    new_drainer: NewDrainer, engine: Engine, enqueue: Enqueue, row: Row
) -> None:
    examples = [{"input": example["input"], "output": example["output"] + "\x7f"} for example in EXAMPLES]
    rejected, valid = enqueue(examples=examples, hyperparameters=STEPS), enqueue(hyperparameters=STEPS)
    with transaction(engine) as session:
        # A constraint that only this outcome violates stands for a result that the columns cannot hold.
        session.execute(
            text("ALTER TABLE task_versions ADD CONSTRAINT plain CHECK (position(chr(127) in labels::text) = 0)")
        )
    run(new_drainer())
    failed = row(rejected)
    assert failed.error is not None
    assert (failed.state, failed.error["code"]) == ("failed", "internal_error")
    assert row(valid).state == "succeeded"


def test_a_subspace_that_the_database_rejects_ends_the_worker_and_keeps_the_queue(
    engine: Engine, settings: Settings, enqueue: Enqueue, row: Row
) -> None:
    model = LazyModel(settings)
    model.load().subspaces[0].manifest["note"] = "\0"
    adaptation_id = enqueue(hyperparameters=STEPS)
    with pytest.raises(SubspaceError, match="manifest"):
        run(Drainer(engine, model, settings, new_id("worker")))
    assert (row(adaptation_id).state, row(adaptation_id).attempt) == ("queued", 0)
