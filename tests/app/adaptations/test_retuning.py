"""`POST /v1/tasks/{task_id}/retune`: a further version from the stored examples."""

import httpx
from sqlalchemy import Engine, select

from app.db.models import Adaptation, Dataset
from app.db.session import transaction
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of


def test_a_task_is_tuned_again_on_its_stored_examples(
    client: httpx.Client, work_off: WorkOff, service_engine: Engine
) -> None:
    validation = EXAMPLES[:2]
    body = adaptation_body(validation_examples=validation, metadata={"source": "mail"})
    first = client.post("/v1/adaptations", json=body).json()
    work_off()
    response = client.post(f"/v1/tasks/{first['task_id']}/retune")
    assert response.status_code == 202
    second = response.json()
    assert response.headers["location"] == f"/v1/adaptations/{second['id']}"
    assert (second["task_id"], second["task_version"]) == (first["task_id"], 2)
    assert (second["kind"], second["metadata"]) == ("classification", {"source": "mail"})
    with transaction(service_engine) as session:
        datasets = session.scalars(select(Dataset)).all()
        assert set(session.scalars(select(Adaptation.dataset_id))) == {dataset.id for dataset in datasets}
        [dataset] = datasets
        assert (dataset.examples, dataset.validation_examples) == (EXAMPLES, validation)
    work_off()
    assert client.get(f"/v1/tasks/{first['task_id']}").json()["version"] == 2


def test_a_task_without_a_version_cannot_be_tuned_again(client: httpx.Client) -> None:
    queued = client.post("/v1/adaptations", json=adaptation_body()).json()
    response = client.post(f"/v1/tasks/{queued['task_id']}/retune")
    assert (response.status_code, error_of(response)["code"]) == (409, "task_not_ready")
    assert client.post("/v1/tasks/tsk_missing/retune").status_code == 404


def test_tuning_without_steps_keeps_the_start(client: httpx.Client, work_off: WorkOff) -> None:
    adaptation = client.post("/v1/adaptations", json=adaptation_body(hyperparameters={"steps": 0})).json()
    work_off()
    metrics = client.get(f"/v1/adaptations/{adaptation['id']}").json()["metrics"]
    assert (metrics["steps_run"], metrics["score"]) == (0, metrics["start_score"])
