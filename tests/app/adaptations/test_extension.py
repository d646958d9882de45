"""New versions that keep the examples of the version before."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.adaptations import service
from tests.support.service import WorkOff, adaptation_body


def extend(client: httpx.Client, task_id: str, text: str) -> dict[str, Any]:
    body = adaptation_body(examples=[{"input": text, "output": "login"}], task_id=task_id, extend=True)
    del body["name"]
    answer: dict[str, Any] = client.post("/v1/adaptations", json=body).json()
    return answer


def test_of_two_extensions_at_once_one_conflicts_and_no_example_is_lost(
    client: httpx.Client, work_off: WorkOff, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    both_prepared = threading.Barrier(2)
    prepare = service.prepare

    def prepare_both(*args: Any) -> Any:
        """Return once both requests have read the newest version, and neither has created its own."""
        dataset = prepare(*args)
        both_prepared.wait(120)
        return dataset

    monkeypatch.setattr(service, "prepare", prepare_both)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda text: extend(client, task_id, text), ["new text", "another text"]))
    [error] = [answer["error"] for answer in answers if "error" in answer]
    assert (error["code"], error["param"]) == ("version_conflict", "extend")
    assert "version 2 is still tuned" in error["message"]
    [version] = [answer["task_version"] for answer in answers if "error" not in answer]
    assert version == 2
