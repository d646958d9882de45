"""Clients that disconnect before they get a response."""

import logging
import time

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from tests.support.service import Serve, WorkOff, adaptation_body


@pytest.fixture
def service_engine(engine: Engine) -> Engine:
    """The database of the service of this test, for `work_off`."""
    return engine


def rows_computed() -> float:
    return REGISTRY.get_sample_value("ipt_prediction_batch_rows_sum") or 0.0


def test_predictions_for_a_disconnected_client_are_not_computed(
    serve: Serve, work_off: WorkOff, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.http.request_context")
    # No batch starts before it is full.
    with serve(predict_wait_ms=60_000, predict_batch_rows=20) as client:
        task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
        work_off()
        one, many = f"/v1/tasks/{task_id}/predict", "/v1/predict"
        before = rows_computed()
        for path, body in (
            (one, {"inputs": ["i was charged twice"] * 5}),
            (many, {"requests": [{"task_id": task_id, "input": "i was charged twice"}] * 5}),
        ):
            with pytest.raises(httpx.ReadTimeout):
                client.post(path, json=body, timeout=1)
        deadline = time.monotonic() + 30
        while caplog.text.count("status=499") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.post(one, json={"inputs": ["password is lost"] * 20}).status_code == 200
        assert rows_computed() - before == 20
    assert "unforeseen_error" not in caplog.text
