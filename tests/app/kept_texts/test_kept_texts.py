"""Texts that tasks were asked: kept only for tenants that want it, bounded, suggested from, and forgotten."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import OperationalError

import ipt
from app.cli.root import run
from app.db.models import KeptTextRow, Task, Tenant
from app.db.session import read_transaction, transaction
from app.kept_texts import recorder as recorder_module
from app.kept_texts import repository
from app.kept_texts.recorder import TextRecorder
from app.settings import Settings
from app.tenants.repository import switch_kept_texts
from tests.support.cli import Captured
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of
from worker.retention import Retention

LABELLED = ipt.Prediction("a", {"a": 0.6, "b": 0.4})


@pytest.fixture
def recorder(engine: Engine) -> Iterator[TextRecorder]:
    """A recorder that writes only when it is told to; of the tasks `on` and `off`, `on`'s tenant keeps its texts."""
    with transaction(engine) as session:
        session.add_all([Tenant(id="keeping", keep_texts=True), Tenant(id="other")])
        session.flush()
        session.add_all([Task(id="on", tenant_id="keeping", name="a"), Task(id="off", tenant_id="other", name="b")])
    recorder = TextRecorder(engine, write_seconds=1000)
    recorder.flush()
    yield recorder
    recorder.close()


def record(recorder: TextRecorder, *texts: str, tenant_id: str = "keeping", task_id: str = "on") -> None:
    recorder.record(tenant_id, [(task_id, 1)] * len(texts), texts, [LABELLED] * len(texts))


def kept(engine: Engine, task_id: str = "on") -> list[str]:
    with transaction(engine) as session:
        return list(session.scalars(select(KeptTextRow.text).where(KeptTextRow.task_id == task_id).order_by("text")))


def test_a_text_is_kept_once_however_often_it_is_asked(recorder: TextRecorder, engine: Engine) -> None:
    record(recorder, "a", "b", "a")
    recorder.record("keeping", [("on", 1)], ["a question"], [ipt.Prediction(text="an answer")])
    recorder.flush()
    record(recorder, "b", "é")
    recorder.flush()
    assert kept(engine) == ["a", "b", "é"]


def test_collecting_executes_no_statement(recorder: TextRecorder, engine: Engine) -> None:
    statements: list[object] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    record(recorder, *map(str, range(100)))
    assert not statements
    recorder.flush()
    assert len(statements) == 3


def test_no_text_is_kept_while_the_switch_is_off(recorder: TextRecorder, engine: Engine) -> None:
    record(recorder, "secret", tenant_id="other", task_id="off")
    record(recorder, "written before")
    recorder.flush()
    record(recorder, "collected before")
    with transaction(engine) as session:
        switch_kept_texts(session, "keeping", on=False)
    assert kept(engine) == []
    recorder.flush()
    record(recorder, "after")
    recorder.flush()
    with transaction(engine) as session:
        repository.add(session, [repository.KeptText("off", "secret"), repository.KeptText("gone", "of no task")])
    assert not kept(engine)
    assert not kept(engine, "off")
    with transaction(engine) as session:
        switch_kept_texts(session, "other", on=True)
    recorder.flush()
    record(recorder, "now", tenant_id="other", task_id="off")
    recorder.flush()
    assert kept(engine, "off") == ["now"]


@pytest.mark.usefixtures("recorder")
def test_texts_that_are_being_stored_wait_for_the_switch(engine: Engine) -> None:
    with transaction(engine) as switching, read_transaction(engine) as storing:
        switch_kept_texts(switching, "keeping", on=False)
        switching.flush()
        storing.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            repository.add(storing, [repository.KeptText("on", "late")])


def test_waiting_texts_are_bounded(
    recorder: TextRecorder, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_TEXTS", 3)
    monkeypatch.setattr(recorder_module, "MAX_CHARS", 10)
    record(recorder, "a", "0123456789", "b", "c", "d", "d")
    recorder.flush()
    assert kept(engine) == ["a", "b", "c"]
    assert "kept_texts_dropped texts=3" in caplog.text
    record(recorder, "e")
    recorder.flush()
    assert "e" in kept(engine)


def test_the_oldest_texts_beyond_a_tasks_limits_are_deleted(
    recorder: TextRecorder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "MAX_TEXTS", 3)
    monkeypatch.setattr(repository, "MAX_BYTES", 10)
    for word in "abcd":
        record(recorder, word)
        recorder.flush()
    assert kept(engine) == ["b", "c", "d"]
    record(recorder, "ééé")
    recorder.flush()
    assert kept(engine) == ["c", "d", "ééé"]
    record(recorder, "12345")
    recorder.flush()
    assert kept(engine) == ["12345"]


def test_kept_texts_age_out(recorder: TextRecorder, engine: Engine) -> None:
    record(recorder, "old", "new")
    recorder.flush()
    with transaction(engine) as session:
        session.execute(text("UPDATE kept_texts SET kept_at = now() - interval '8 days' WHERE text = 'old'"))
    Retention(engine, Settings()).run()
    assert kept(engine) == ["new", "old"]
    Retention(engine, Settings(keep_texts_days=7)).run()
    assert kept(engine) == ["new"]


def test_suggestions_come_from_the_texts_that_a_task_was_asked(
    new_client: Callable[..., httpx.Client],
    service_engine: Engine,
    work_off: WorkOff,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    client, other = new_client(), new_client()
    path, others_path = (
        f"/v1/tasks/{each.post('/v1/adaptations', json=adaptation_body()).json()['task_id']}"
        for each in (client, other)
    )
    work_off()
    task_id = path.rpartition("/")[2]
    with transaction(service_engine) as session:
        task = session.get_one(Task, task_id)
        tenant_id = task.tenant_id
    response = client.post(f"{path}/suggest", json={})
    assert (response.status_code, error_of(response)["code"]) == (409, "texts_not_kept")
    assert f"ipt tenants keep-texts {tenant_id} on" in error_of(response)["message"]

    with transaction(service_engine) as session:
        switch_kept_texts(session, tenant_id, on=True)
    response = client.post(f"{path}/suggest", json={})
    assert (response.status_code, error_of(response)["code"]) == (409, "no_kept_texts")
    texts = ["my card is wrong", "the password is lost", EXAMPLES[0]["input"]]
    deadline = time.monotonic() + 60
    while (response := client.post(f"{path}/suggest", json={"count": 9})).status_code == 409:
        assert time.monotonic() < deadline
        other.post(f"{others_path}/predict", json={"inputs": ["another tenant's"]}).raise_for_status()
        client.post(f"{path}/predict", json={"inputs": texts}).raise_for_status()
        time.sleep(0.3)
    suggestions = response.raise_for_status().json()["suggestions"]
    assert {each["text"] for each in suggestions} == set(texts[:2])  # the third is an example of the task
    assert {each["index"] for each in suggestions} == {None}
    assert kept(service_engine, others_path.rpartition("/")[2]) == []
    assert other.post(f"{path}/suggest", json={}).status_code == 404

    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert run(["suggest", task_id, "--url", str(client.base_url)]) == 0
    assert set(capsys.readouterr().out.splitlines()) == set(texts[:2])
    client.delete(path).raise_for_status()
    assert kept(service_engine, task_id) == []


def test_kept_texts_need_more_than_the_scope_predict(new_client: Callable[..., httpx.Client]) -> None:
    response = new_client(scopes=["predict"]).post("/v1/tasks/any/suggest", json={})
    assert (response.status_code, error_of(response)["code"]) == (403, "scope_missing")
