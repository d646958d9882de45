"""`GET /metrics`: who may read it, what each metric counts, and what no label contains."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event, func, text
from sqlalchemy.orm import Session

from app.api_keys import service as api_keys
from app.db.session import transaction
from app.db.webhook_models import WebhookDelivery, WebhookEndpoint
from app.metrics import collector
from app.metrics.repository import queue_query
from app.queue import lifecycle, workers
from app.settings import DEFAULT_TENANT
from tests.support.service import Serve, WorkOff, adaptation_body, error_of

KEY = "a-key-of-sixteen-characters-or-more"
SECRET = "xyzzy"


@pytest.fixture
def service(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service of this test, which reads its queue at every scrape."""
    monkeypatch.setattr(collector, "CACHE_SECONDS", 0.0)
    with serve() as client:
        yield client


@pytest.fixture
def service_engine(engine: Engine) -> Engine:
    """The database of `service`, for `work_off`."""
    return engine


def samples(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels; checks that the text can be parsed and repeats no sample."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    parsed = [each for family in text_string_to_metric_families(response.text) for each in family.samples]
    by_key = {(each.name, frozenset(each.labels.items())): each.value for each in parsed}
    assert len(by_key) == len(parsed)
    return by_key


def value(client: httpx.Client, name: str, **labels: str) -> float:
    return samples(client).get((name, frozenset(labels.items())), 0.0)


def test_only_the_operator_may_read_the_metrics(serve: Serve, engine: Engine) -> None:
    with serve(wait=False, embedded=False, api_key=KEY) as client:
        with transaction(engine) as session:
            _, issued = api_keys.issue(session, "somebody", scopes=["adapt", "predict", "admin"])

        def get(key: str | None) -> httpx.Response:
            return client.get("/metrics", headers={} if key is None else {"Authorization": f"Bearer {key}"})

        assert get(KEY).status_code == 200
        for key in (None, issued, KEY + "x"):
            response = get(key)
            assert (response.status_code, error_of(response)["code"]) == (401, "operator_key_required")
            assert "ipt_" not in response.text


def test_without_an_operator_key_no_one_may_read_the_metrics(client: httpx.Client) -> None:
    assert error_of(client.get("/metrics"))["code"] == "operator_key_required"


def test_open_access_includes_the_metrics_but_not_for_web_pages(serve: Serve) -> None:
    with serve(wait=False) as client:
        assert client.get("/metrics").status_code == 200
        assert client.get("/metrics", headers={"Host": "evil.example"}).status_code == 400


def test_open_metrics_need_no_key_and_all_else_does(serve: Serve) -> None:
    with serve(wait=False, embedded=False, api_key=KEY, open_metrics=True) as client:
        assert client.get("/metrics", headers={"Host": "api.monitoring"}).status_code == 200
        assert client.get("/v1/tasks").status_code == 401


def test_the_queue_metrics_follow_the_queue(service: httpx.Client, engine: Engine, work_off: WorkOff) -> None:
    def queue() -> tuple[float, float, bool]:
        age = value(service, "ipt_queue_oldest_age_seconds", state="queued")
        assert 0 <= age < 60
        counts = [value(service, "ipt_queue_adaptations", state=state) for state in ("queued", "running")]
        return counts[0], counts[1], age > 0

    def running_for() -> float:
        return value(service, "ipt_queue_oldest_age_seconds", state="running")

    assert queue() == (0, 0, False)
    assert running_for() == 0
    finished = value(service, "ipt_adaptations_finished_total", outcome="succeeded")
    claimed = value(service, "ipt_adaptation_queue_seconds_count")
    for _ in range(2):
        service.post("/v1/adaptations", json=adaptation_body())
    assert queue() == (2, 0, True)
    with transaction(engine) as session:
        session.execute(
            text(
                "UPDATE adaptations SET state = 'running', started_at = now() - interval '5 minutes' "
                "WHERE id = (SELECT min(id) FROM adaptations)"
            )
        )
    assert queue() == (1, 1, True)
    assert 300 <= running_for() < 360
    with transaction(engine) as session:
        session.execute(text("UPDATE adaptations SET state = 'queued', started_at = NULL"))
        workers.announce(session, "one", [], 0)
        workers.announce(session, "gone", [], 0)
        session.execute(text("UPDATE workers SET seen_at = now() - interval '2 minutes' WHERE id = 'gone'"))
    assert len(work_off()) == 2
    assert queue() == (0, 0, False)
    assert running_for() == 0
    assert value(service, "ipt_workers") == 1
    assert value(service, "ipt_adaptations_finished_total", outcome="succeeded") == finished + 2
    assert value(service, "ipt_adaptation_queue_seconds_count") == claimed + 2


def test_a_finished_adaptation_counts_when_it_is_committed(service: httpx.Client, engine: Engine) -> None:
    adaptation_id = service.post("/v1/adaptations", json=adaptation_body()).json()["id"]
    cancelled = value(service, "ipt_adaptations_finished_total", outcome="cancelled")
    with Session(engine) as session:
        lifecycle.request_cancel(session, "default", adaptation_id)
        session.rollback()
    assert value(service, "ipt_adaptations_finished_total", outcome="cancelled") == cancelled
    for _ in range(2):
        assert service.post(f"/v1/adaptations/{adaptation_id}/cancel").status_code == 200
    assert value(service, "ipt_adaptations_finished_total", outcome="cancelled") == cancelled + 1


def test_predictions_and_requests_are_counted_without_their_content(service: httpx.Client, work_off: WorkOff) -> None:
    task_id = service.post("/v1/adaptations", json=adaptation_body(name=SECRET)).json()["task_id"]
    [adaptation_id] = work_off()
    route = {"method": "POST", "route": "/v1/tasks/{task_id}/predict", "status": "2xx"}
    before = samples(service)
    assert service.post(f"/v1/tasks/{task_id}/predict", json={"inputs": [SECRET] * 3}).status_code == 200
    assert service.get(f"/{SECRET}/{task_id}").status_code == 404
    assert service.get(f"/v1/adaptations/{SECRET}").status_code == 404
    assert service.request("PROPFIND", "/v1/tasks").status_code == 405
    after = samples(service)

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert grown("ipt_predictions_total", kind="classification") == 3
    assert grown("ipt_predictions_total", kind="text2text") == 0
    assert grown("ipt_prediction_batch_rows_count") >= 1
    assert grown("ipt_prediction_batch_rows_sum") == 3
    assert grown("ipt_http_request_duration_seconds_count", **route) == 1
    assert grown("ipt_http_request_duration_seconds_count", method="GET", route="none", status="4xx") == 1
    by_id = {"method": "GET", "route": "/v1/adaptations/{adaptation_id}", "status": "4xx"}
    assert grown("ipt_http_request_duration_seconds_count", **by_id) == 1
    unknown = {"method": "other", "route": "/v1/tasks", "status": "4xx"}
    assert grown("ipt_http_request_duration_seconds_count", **unknown) == 1
    assert after["ipt_http_requests_in_flight", frozenset()] == 1  # this request
    assert after["ipt_model_state", frozenset({("state", "ok")})] == 1
    assert sum(value for (name, _), value in after.items() if name == "ipt_model_state") == 1
    labels = " ".join(value for _, pairs in after for _, value in pairs)
    for word in (task_id, adaptation_id, SECRET, "default"):
        assert word.lower() not in labels.lower()


def test_the_outbox_of_webhooks_is_counted_with_its_age(service: httpx.Client, engine: Engine) -> None:
    def outbox() -> tuple[float, float]:
        return value(service, "ipt_webhooks_pending"), value(service, "ipt_webhook_oldest_pending_seconds")

    assert outbox() == (0, 0)
    with transaction(engine) as session:
        endpoint = {"id": "wh_1", "tenant_id": DEFAULT_TENANT, "name": "n", "url": "https://a.example", "secret": "s"}
        session.add(WebhookEndpoint(**endpoint, event_types=["batch.completed"]))
        session.flush()
        for number, minutes in enumerate((5, 1)):
            delivery = {"endpoint_id": "wh_1", "event_id": f"evt_{number}", "tenant_id": DEFAULT_TENANT}
            now = func.now()
            times = {"created_at": now - timedelta(minutes=minutes), "due_at": now + timedelta(hours=1)}
            session.add(WebhookDelivery(**delivery, **times, type="batch.completed", object_id="batch_1"))
    pending, age = outbox()
    assert pending == 2
    assert 300 <= age < 360


def test_frequent_scrapes_query_the_database_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "CACHE_SECONDS", 600.0)
    statements: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    with serve() as client:
        event.listen(Engine, "before_cursor_execute", record)
        try:
            for _ in range(5):
                samples(client)
        finally:
            event.remove(Engine, "before_cursor_execute", record)
    # The loops that look for batches, webhooks and tenants that keep texts have statements of their own.
    of_loops = ("batches", "webhook_deliveries AS due", "keep_texts")
    scraped = [statement for statement in statements if not any(words in statement for words in of_loops)]
    assert len(scraped) == 2  # the queue and the outbox


def test_counting_a_long_queue_reads_no_finished_rows(service: httpx.Client, engine: Engine) -> None:
    service.post("/v1/adaptations", json=adaptation_body())
    columns = "tenant_id, task_id, dataset_id, kind, hyperparameters, body_hash"
    with transaction(engine) as session:
        session.execute(
            text(
                f"INSERT INTO adaptations (id, task_version, state, {columns}) "
                "SELECT 'adp_' || n, n, CASE WHEN n <= 2000 THEN 'queued' WHEN n <= 2020 THEN 'running' "
                f"ELSE 'succeeded' END, {columns} FROM adaptations, generate_series(2, 20000) AS n"
            )
        )
        session.execute(text("ANALYZE adaptations"))
        query = queue_query().compile(engine, compile_kwargs={"literal_binds": True})
        plan = str(session.execute(text(f"EXPLAIN {query}")).scalars().all())
    for index in ("ix_adaptations_queued", "ix_adaptations_running"):
        assert index in plan
    assert "Seq Scan on adaptations" not in plan
    began = time.monotonic()
    assert value(service, "ipt_queue_adaptations", state="queued") == 2000
    assert time.monotonic() - began < 2


def test_a_database_error_affects_only_the_metrics_of_the_database(service: httpx.Client, engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE adaptations RENAME TO elsewhere"))
    names = {name for name, _ in samples(service)}
    assert value(service, "ipt_database_up") == 0
    assert "ipt_queue_adaptations" not in names
    assert "ipt_model_state" in names
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO adaptations"))
    assert value(service, "ipt_database_up") == 1
