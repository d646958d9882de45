"""New versions that keep the examples of the version before."""

from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.adaptations import service
from app.adaptations.schemas import AdaptationInput
from app.db.session import transaction
from tests.support.service import WorkOff, adaptation_body, error_of


def extension(task_id: str, text: str) -> dict[str, Any]:
    body = adaptation_body(examples=[{"input": text, "output": "login"}], task_id=task_id, extend=True)
    del body["name"]
    return body


def test_of_two_extensions_at_once_one_conflicts_and_no_example_is_lost(
    client: httpx.Client, work_off: WorkOff, service_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    prepare = service.prepare

    def extend_meanwhile(session: Any, settings: Any, tenant_id: str, body: Any, models: Any, subspace: Any) -> Any:
        """Create another version between reading the newest one and creating the requested one."""
        dataset = prepare(session, settings, tenant_id, body, models, subspace)
        monkeypatch.setattr(service, "prepare", prepare)
        with transaction(service_engine) as other:
            requester = service.Requester(tenant_id, settings, models, None)
            service.create(other, requester, AdaptationInput.model_validate(extension(task_id, "another text")))
        return dataset

    monkeypatch.setattr(service, "prepare", extend_meanwhile)
    response = client.post("/v1/adaptations", json=extension(task_id, "new text"))
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (409, "version_conflict", "extend")
    assert "version 2 is still tuned" in error["message"]
    page = client.get(f"/v1/tasks/{task_id}/examples").json()
    assert (page["version"], page["data"][0]["input"]) == (2, "another text")
