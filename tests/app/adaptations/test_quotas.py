"""What a tenant may store is limited, and the error says what to delete."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.service import Serve, adaptation_body, error_of


@pytest.fixture(params=["max_stored_adaptations", "max_stored_bytes"])
def limited(request: pytest.FixtureRequest, serve: Serve) -> Iterator[httpx.Client]:
    """A service where one adaptation uses up the quota."""
    with serve(wait=False, **{request.param: 1}) as client:
        yield client


def test_a_tenant_beyond_its_quota_is_told_what_to_delete(limited: httpx.Client) -> None:
    first = limited.post("/v1/adaptations", json=adaptation_body(), headers={"Idempotency-Key": "k"})
    assert first.status_code == 202
    refused = limited.post("/v1/adaptations", json=adaptation_body(name="another"))
    assert (refused.status_code, error_of(refused)["code"]) == (422, "quota_exceeded")
    assert "DELETE /v1/tasks/{task_id}" in error_of(refused)["message"]
    repeated = limited.post("/v1/adaptations", json=adaptation_body(), headers={"Idempotency-Key": "k"})
    assert repeated.json()["id"] == first.json()["id"], "a repeated request stores nothing"
    limited.delete(f"/v1/tasks/{first.json()['task_id']}")
    assert limited.post("/v1/adaptations", json=adaptation_body()).status_code == 202
