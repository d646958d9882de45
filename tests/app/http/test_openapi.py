"""The service conforms to its OpenAPI document, for valid and invalid requests and for sequences of requests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.openai.dialect import PREFIX
from tests.support import openapi_checks
from tests.support.service import EXAMPLES, Serve, WorkOff, adaptation_body

KEY = "operator" * 4
# Most ids are ids of existing objects.
CONFIG = """
hooks = "{checks}"
headers = {{ Authorization = "Bearer {key}" }}
request-timeout = 20
continue-on-failure = true

[generation]
deterministic = true
database = "none"
max-examples = 15
allow-extra-parameters = false  # the service ignores unknown headers
allow-x00 = false  # rejected in every text; the document does not repeat it for each field

[dictionaries]
tasks = {{ values = ["{tuned[task_id]}", "{queued[task_id]}"] }}
adaptations = {{ values = ["{tuned[id]}", "{queued[id]}"] }}
numbers = {{ values = [1, 2] }}
files = {{ values = ["{file[id]}"] }}
jobs = {{ values = ["{job[id]}"] }}
models = {{ values = ["{model}"] }}
answers = {{ values = ["application/json", "text/event-stream"] }}

[parameters]
"path.task_id" = {{ dictionary = "tasks", probability = 0.9 }}
"query.task_id" = {{ dictionary = "tasks", probability = 0.9 }}
"body.task_id" = {{ dictionary = "tasks", probability = 0.9 }}
"body.requests[*].task_id" = {{ dictionary = "tasks", probability = 0.9 }}
"path.adaptation_id" = {{ dictionary = "adaptations", probability = 0.9 }}
# JSON Schema accepts 1.0 as an integer, the service does not.
"body.version" = {{ dictionary = "numbers" }}
"body.compare_with" = {{ dictionary = "numbers" }}
"path.version" = {{ dictionary = "numbers", probability = 0.9 }}
"body.requests[*].version" = {{ dictionary = "numbers" }}
"body.canary.version" = {{ dictionary = "numbers" }}
"body.max_new_tokens" = {{ dictionary = "numbers" }}
"body.top_k" = {{ dictionary = "numbers" }}
"body.seed" = {{ dictionary = "numbers" }}
"body.num_beams" = {{ dictionary = "numbers" }}
"path.file_id" = {{ dictionary = "files", probability = 0.9 }}
"path.fine_tuning_job_id" = {{ dictionary = "jobs", probability = 0.9 }}
"path.name" = {{ dictionary = "models", probability = 0.9 }}
"body.training_file" = {{ dictionary = "files", probability = 0.9 }}
"header.accept" = {{ dictionary = "answers" }}

# Keeps the tasks that other operations need.
[[operations]]
include-name = "DELETE /v1/tasks/{{task_id}}"
parameters = {{ "path.task_id" = "{doomed[task_id]}" }}

# The event stream of a queued adaptation would not end.
[[operations]]
include-name = "GET /v1/adaptations/{{adaptation_id}}/events"
parameters = {{ "path.adaptation_id" = "{tuned[id]}" }}

# A schema cannot express which labels fit together, or what the file of a form must contain.
[[operations]]
include-name = "POST /v1/adaptations"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "PATCH /v1/tasks/{{task_id}}"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}  # a change of nothing

[[operations]]
include-name = "PATCH /v1/tasks/{{task_id}}/examples"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

# A schema cannot express which labeling configurations annotate a text.
[[operations]]
include-name = "POST /v1/tasks/{{task_id}}/label-studio/setup"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /v1/tasks/{{task_id}}/label-studio/predict"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /v1/tasks/{{task_id}}/label-studio/webhook"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /v1/classify"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /v1/tasks/{{task_id}}/evaluate"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /v1/datasets/check"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

# These keep the file and the model that other operations need.
[[operations]]
include-name = "DELETE /openai/v1/files/{{file_id}}"
parameters = {{ "path.file_id" = "file-unknown" }}
checks = {{ ensure_resource_availability = {{ enabled = false }} }}

[[operations]]
include-name = "DELETE /openai/v1/models/{{name}}"
parameters = {{ "path.name" = "ft:unknown" }}

# A schema cannot express which fields fit together, or what a file must contain.
[[operations]]
include-name = "POST /openai/v1/fine_tuning/jobs/{{fine_tuning_job_id}}/cancel"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}  # a job that has ended is a 400

[[operations]]
include-name = "POST /openai/v1/fine_tuning/jobs/{{fine_tuning_job_id}}/pause"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}  # as well

[[operations]]
include-name = "POST /openai/v1/fine_tuning/jobs/{{fine_tuning_job_id}}/resume"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}  # as well

[[operations]]
include-name = "POST /openai/v1/files"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /openai/v1/fine_tuning/jobs"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

# A schema cannot express which URLs a webhook may reach, and no receiver answers.
[[operations]]
include-name = "POST /openai/v1/webhook_endpoints"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /openai/v1/webhook_endpoints/{{webhook_endpoint_id}}"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /openai/v1/webhook_endpoints/{{webhook_endpoint_id}}/test"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /openai/v1/chat/completions"
parameters = {{ "body.model" = "{model}" }}
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /openai/v1/embeddings"
parameters = {{ "body.model" = "{model}" }}
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "POST /openai/v1/completions"
parameters = {{ "body.model" = "{model}" }}
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
"""


@pytest.fixture
def service_engine(engine: Engine) -> Engine:
    """The database of the service of this test, for `work_off`."""
    return engine


@pytest.mark.timeout(360)
def test_every_response_is_documented(serve: Serve, work_off: WorkOff, tmp_path: Path) -> None:
    config, report = tmp_path / "schemathesis.toml", tmp_path / "answers.har"
    # With a rate limit that is never reached, every response has the rate limit headers.
    with serve(api_key=KEY, requests_per_minute=1_000_000) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        tuned = client.post("/v1/adaptations", json=adaptation_body()).json()
        lines = "\n".join(json.dumps(example) for example in EXAMPLES)
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("examples.jsonl", lines)}}
        file = client.post(f"{PREFIX}/files", **form).json()
        job_body = {"model": "gpt-4o-mini", "training_file": file["id"], "hyperparameters": {"n_epochs": 1}}
        job = client.post(f"{PREFIX}/fine_tuning/jobs", json=job_body).json()
        work_off()
        model = client.get(f"{PREFIX}/fine_tuning/jobs/{job['id']}").json()["fine_tuned_model"]
        queued, doomed = (client.post("/v1/adaptations", json=adaptation_body()).json() for _ in range(2))
        checks = openapi_checks.__file__
        objects = {"tuned": tuned, "queued": queued, "doomed": doomed, "file": file, "job": job, "model": model}
        config.write_text(CONFIG.format(checks=checks, key=KEY, **objects))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "--no-color"]
        command += ["run", f"{client.base_url}/openapi.json", "--report-har-path", report]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        entries = json.loads(report.read_text())["log"]["entries"]
        succeeded = {
            entry["request"]["url"].removeprefix(str(client.base_url)).partition("?")[0]
            for entry in entries
            if entry["response"]["status"] == 200
        }
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # Requests got further than to an unknown task.
    for path in ("neighbors", "predict", "vector", "versions"):
        assert f"/v1/tasks/{tuned['task_id']}/{path}" in succeeded
    assert {"/v1/predict", f"/v1/adaptations/{tuned['id']}/events"} <= succeeded
    expected = {
        f"/files/{file['id']}/content",
        f"/fine_tuning/jobs/{job['id']}/events",
        "/models",
        "/completions",
        "/embeddings",
    }
    assert {PREFIX + path for path in expected} <= succeeded
    assert any(entry["response"]["status"] == 202 for entry in entries), "no adaptation was valid"
