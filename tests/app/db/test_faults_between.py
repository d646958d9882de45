"""What happens between the service and PostgreSQL: a lost COMMIT, a lost reply, a partition and a half-open connection.

Each test names the promise of docs/api.md or docs/reliability.md that the fault could break.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select

from app.db import client_timeout
from app.db.models import Adaptation, AdaptationEvent, Dataset, Task
from app.db.session import transaction
from app.settings import Settings
from tests.support.fault_proxy import DatabaseProxy, Fault
from tests.support.processes import until
from tests.support.service import adaptation_body, error_of, running

KEY = {"Idempotency-Key": "once"}


@pytest.fixture
def client(
    proxy: DatabaseProxy, tiny_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """A service that reaches its database only through the proxy, and waits two seconds for it."""
    monkeypatch.setattr(client_timeout, "TIMEOUT_SECONDS", 2.0)
    settings = Settings(data_dir=tmp_path, **tiny_settings)
    with running(settings, proxy.database_url) as client:
        yield client


def stored(engine: Engine) -> list[int]:
    with transaction(engine) as session:
        tables = (Adaptation, AdaptationEvent, Dataset, Task)
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


@pytest.mark.parametrize(
    ("fault", "saved"), [(Fault.LOSE_COMMIT, 0), (Fault.LOSE_COMMIT_REPLY, 1)], ids=["request", "reply"]
)
def test_a_lost_commit_is_reported_as_unknown_and_a_retry_has_one_effect(
    client: httpx.Client, proxy: DatabaseProxy, engine: Engine, fault: Fault, saved: int
) -> None:
    proxy.set(fault)
    unknown = client.post("/v1/adaptations", json=adaptation_body(), headers=KEY)
    assert proxy.injected >= 1
    assert (unknown.status_code, error_of(unknown)["code"]) == (503, "outcome_unknown")
    proxy.set(Fault.NONE)
    assert stored(engine)[0] == saved
    retried = [client.post("/v1/adaptations", json=adaptation_body(), headers=KEY) for _ in range(2)]
    assert [response.status_code for response in retried] == [202, 202]
    assert len({response.json()["id"] for response in retried}) == 1
    assert stored(engine) == [1, 1, 1, 1]


@pytest.mark.parametrize("fault", [Fault.PARTITION, Fault.HALF_OPEN], ids=lambda fault: fault.name.lower())
def test_an_unreachable_database_saves_nothing_and_the_service_recovers_with_it(
    client: httpx.Client, proxy: DatabaseProxy, engine: Engine, fault: Fault
) -> None:
    proxy.set(fault)
    refused = client.post("/v1/adaptations", json=adaptation_body(), headers=KEY)
    assert refused.status_code == 503
    assert error_of(refused)["code"] != "outcome_unknown"
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert stored(engine) == [0, 0, 0, 0]
    proxy.set(Fault.NONE)
    until(lambda: client.get("/readyz").status_code == 200, seconds=60)
    assert client.post("/v1/adaptations", json=adaptation_body(), headers=KEY).status_code == 202
    assert stored(engine) == [1, 1, 1, 1]
