"""Deleting a task removes everything that came from its examples, from every table, at once."""

import json

import httpx
from sqlalchemy import Engine, text

from app.db.session import transaction
from tests.support.service import EXAMPLES, WorkOff, adaptation_body
from tests.support.tables import contents

SECRETS = ("zebra quotation", "yonder label", "walrus note", "quokka name")


def found_in(engine: Engine, *traces: str) -> dict[str, list[str]]:
    """Return by table which texts occur in its rows: as text, or in bytes, which are shown in hexadecimal."""
    found = {}
    for table, rows in contents(engine).items():
        document = json.dumps(rows, ensure_ascii=False)
        hits = [trace for trace in traces if trace in document or trace.encode().hex() in document]
        if hits:
            found[table] = hits
    return found


def test_a_deleted_task_leaves_no_trace_in_any_table(
    client: httpx.Client, work_off: WorkOff, service_engine: Engine
) -> None:
    text_, label, note, name = SECRETS
    examples = [*EXAMPLES, {"input": text_, "output": label}, {"input": f"{text_} again", "output": label}]
    body = adaptation_body(name=name, examples=examples, metadata={"note": note})
    key = {"Idempotency-Key": "walrus-key"}
    adaptation = client.post("/v1/adaptations", json=body, headers=key).raise_for_status().json()
    task_id = adaptation["task_id"]
    shared = client.post("/v1/adaptations", json=adaptation_body(name="shares the dataset")).json()
    client.post("/v1/adaptations", json=adaptation_body(task_id=task_id, name=None)).raise_for_status()
    work_off()
    changes = {"version": 2, "add": [{"input": f"{text_} more", "output": "login"}], "hyperparameters": {"steps": 0}}
    client.patch(f"/v1/tasks/{task_id}/examples", json=changes).raise_for_status()
    predict = f"/v1/tasks/{task_id}/predict"
    client.post(predict, json={"inputs": ["walrus question"], "version": 1}).raise_for_status()
    with transaction(service_engine) as session:
        usage = "INSERT INTO task_usage VALUES (:task, date_trunc('hour', now()), 3, :label, 1, 1) "
        session.execute(text(usage), {"task": task_id, "label": label})
    traces = (*SECRETS, "walrus-key", task_id, adaptation["id"])
    tables = found_in(service_engine, *traces)
    assert {"tasks", "datasets", "adaptations", "adaptation_events", "task_versions", "task_usage"} <= tables.keys()
    assert found_in(service_engine, "walrus question") == {}, "a question is never stored"
    client.delete(f"/v1/tasks/{task_id}").raise_for_status()
    assert found_in(service_engine, *traces) == {}
    kept = client.get(f"/v1/tasks/{shared['task_id']}/examples").json()
    assert len(kept["data"]) == len(EXAMPLES), "a dataset that another task uses stays"
