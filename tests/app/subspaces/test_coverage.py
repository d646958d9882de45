"""Readiness and metrics count what needs a subspace that the service does not have."""

import httpx
import pytest
from sqlalchemy import Engine, text

from app.db.session import transaction
from app.queue import workers
from app.subspaces import coverage
from tests.support.service import Serve, WorkOff, adaptation_body


@pytest.fixture
def service_engine(engine: Engine) -> Engine:
    """The database of this test's service, for `work_off`."""
    return engine


def counts(client: httpx.Client) -> tuple[int, int]:
    """Return the tasks and the queued adaptations that /readyz counts, which the metrics count too."""
    ready = client.get("/readyz")
    assert ready.status_code == 200
    unanswerable = ready.json()["unanswerable"]
    metrics = client.get("/metrics").text.splitlines()
    assert f'ipt_unanswerable{{kind="task"}} {float(unanswerable["tasks"])}' in metrics
    assert f'ipt_unanswerable{{kind="queued_adaptation"}} {float(unanswerable["queued_adaptations"])}' in metrics
    return unanswerable["tasks"], unanswerable["queued_adaptations"]


def test_tasks_and_adaptations_of_a_missing_subspace_are_counted(
    serve: Serve, engine: Engine, work_off: WorkOff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "CACHE_SECONDS", 0.0)
    with serve() as client:
        tasks = [client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"] for _ in range(2)]
        work_off()
        assert counts(client) == (0, 0)
        with transaction(engine) as session:
            session.execute(
                text(
                    "INSERT INTO subspaces (id, intrinsic_dim, prompt_length, hidden_size, manifest)"
                    " VALUES ('sub_missing', 4, 2, 8, '{}')"
                )
            )
            session.execute(
                text("UPDATE task_versions SET subspace_id = 'sub_missing' WHERE task_id = :id"), {"id": tasks[0]}
            )
        assert counts(client) == (1, 0)
        client.post("/v1/adaptations", json=adaptation_body())
        with transaction(engine) as session:
            session.execute(text("UPDATE adaptations SET subspace_id = 'sub_missing' WHERE state = 'queued'"))
        assert counts(client) == (1, 1)
        with transaction(engine) as session:
            workers.announce(session, "elsewhere", ["sub_other", "sub_missing"], 0)
        assert counts(client) == (1, 0), "another worker tunes it"
        client.post(f"/v1/tasks/{tasks[0]}/retune")
        with transaction(engine) as session:
            session.execute(text("DELETE FROM adaptations WHERE subspace_id = 'sub_missing' AND state = 'queued'"))
        assert len(work_off()) == 1
        assert counts(client) == (0, 0), "only the newest version counts"
