"""Hourly counts of predictions: what is counted, when it is written, and what is forgotten."""

import time
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import OperationalError

import ipt
from app.cli.root import run
from app.db.models import Task, TaskUsage
from app.db.session import transaction
from app.usage import recorder as recorder_module
from app.usage.recorder import UsageRecorder
from tests.support.cli import Captured
from tests.support.service import WorkOff, adaptation_body


@pytest.fixture
def recorder(engine: Engine) -> Iterator[UsageRecorder]:
    """A recorder that writes only when it is told to, with a task `t`."""
    with transaction(engine) as session:
        session.add(Task(id="t", tenant_id="default", name="task"))
    recorder = UsageRecorder(engine, write_seconds=1000)
    yield recorder
    recorder.close()


def record(recorder: UsageRecorder, *scores: float, label: str = "a", task_id: str = "t", version: int = 1) -> None:
    predictions = [ipt.Prediction(label, {label: score, "other": 1 - score}) for score in scores]
    recorder.record([(task_id, version)] * len(scores), predictions)


def stored(engine: Engine) -> list[tuple[str, int, str, int, float]]:
    with transaction(engine) as session:
        rows = session.scalars(select(TaskUsage).order_by(TaskUsage.version, TaskUsage.label))
        return [(row.task_id, row.version, row.label, row.count, round(row.score_sum, 6)) for row in rows]


def test_counts_of_several_processes_add_up(recorder: UsageRecorder, engine: Engine) -> None:
    other = UsageRecorder(engine, write_seconds=1000)
    record(recorder, 0.5, 0.75)
    record(other, 0.25)
    record(other, 0.9, label="b", version=2)
    other.record([("t", 2)], [ipt.Prediction(text="an answer", confidence=0.4)])
    recorder.flush()
    other.close()
    record(recorder, 1.0)
    recorder.flush()
    recorder.flush()
    assert stored(engine) == [("t", 1, "a", 4, 2.5), ("t", 2, "", 1, 0.4), ("t", 2, "b", 1, 0.9)]


def test_counting_executes_no_statement(recorder: UsageRecorder, engine: Engine) -> None:
    recorder.flush()
    statements: list[object] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    for _ in range(100):
        record(recorder, 0.5)
    assert not statements
    recorder.flush()
    assert len(statements) == 1


def test_counts_of_a_deleted_task_are_dropped(recorder: UsageRecorder, engine: Engine) -> None:
    record(recorder, 0.5, task_id="gone")
    record(recorder, 0.5)
    recorder.flush()
    assert stored(engine) == [("t", 1, "a", 1, 0.5)]


def test_counts_wait_for_the_database_and_their_memory_is_bounded(
    recorder: UsageRecorder, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_COUNTERS", 2)
    record(recorder, 0.5)
    with pytest.MonkeyPatch.context() as broken:

        def fail(*_: object) -> None:
            raise OperationalError("", {}, Exception())

        broken.setattr("app.usage.repository.add", fail)
        with pytest.raises(OperationalError):
            recorder.flush()
    record(recorder, 0.5)
    record(recorder, 0.5, label="b")
    record(recorder, 0.5, 0.5, label="c")
    recorder.flush()
    assert stored(engine) == [("t", 1, "a", 2, 1.0), ("t", 1, "b", 1, 0.5)]
    assert "usage_dropped predictions=2" in caplog.text


def test_old_counts_are_deleted(recorder: UsageRecorder, engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(
            text("INSERT INTO task_usage SELECT 't', now() - make_interval(days => d), 1, 'a', 1, 0.5"
                 " FROM unnest(ARRAY[1, 30, 32, 90]) d")
        )  # fmt: skip
    recorder.flush()
    assert len(stored(engine)) == 2


def test_predictions_are_counted_and_shown(
    client: httpx.Client, work_off: WorkOff, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    texts = ["i was charged twice", "i can not login", "password"]
    predictions = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": texts}).json()["predictions"]
    path, deadline = f"/v1/tasks/{task_id}/usage", time.monotonic() + 60
    while not (hours := client.get(path).json()["data"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    [hour] = hours
    [version] = hour["versions"]
    assert (version["version"], version["count"]) == (1, 3)
    for label in version["labels"]:
        scores = [each["scores"][each["label"]] for each in predictions if each["label"] == label["label"]]
        assert label["count"] == len(scores)
        assert label["mean_score"] == pytest.approx(sum(scores) / len(scores))
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    assert run(["tasks", "usage", task_id, "--url", str(client.base_url)]) == 0
    assert version["labels"][0]["label"] in capsys.readouterr().out


def test_usage_is_listed_in_pages(client: httpx.Client, service_engine: Engine) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    path = f"/v1/tasks/{task_id}/usage"
    assert client.get(path).json()["data"] == []
    with transaction(service_engine) as session:
        for hour in range(5):
            statement = text(
                "INSERT INTO task_usage SELECT :id, date_trunc('hour', now()) - make_interval(hours => :hour), v, 'a',"
                " 4, 3 FROM unnest(ARRAY[1, 2]) v"
            )
            session.execute(statement, {"id": task_id, "hour": hour})
    pages = [client.get(path, params={"limit": 2}).json()]
    while pages[-1]["has_more"]:
        pages.append(client.get(path, params={"limit": 2, "after": pages[-1]["next"]}).json())
    hours = [hour for page in pages for hour in page["data"]]
    assert [len(page["data"]) for page in pages] == [2, 2, 1]
    assert [hour["hour"] for hour in hours] == sorted({hour["hour"] for hour in hours}, reverse=True)
    assert [version["mean_score"] for version in hours[0]["versions"]] == [0.75, 0.75]
