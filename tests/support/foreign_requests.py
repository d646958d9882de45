"""Requests of one tenant for the data of another, for every route of the service."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from app.openai import dialect
from tests.support.service import EXAMPLES

OPENAI = dialect.PREFIX
LABEL_CONFIG = '<View><Text name="t" value="$text"/><Choices name="c" toName="t"/></View>'


@dataclass(frozen=True)
class Owner:
    """A tenant with a task of two versions and a queued adaptation for a third."""

    client: httpx.Client
    word: str
    """A word in the task's name, its labels and the adaptations' metadata."""
    task_id: str
    adaptation_ids: list[str]
    """Two succeeded adaptations, then a queued one."""
    first_body: dict[str, Any]
    file_id: str
    job_id: str
    """A fine-tuning job on that file, which has succeeded."""
    batch_file_id: str
    batch_id: str
    """A batch of that file's only request, which names no model."""
    webhook_id: str

    @property
    def model(self) -> str:
        """The model of the job."""
        name: str = self.client.get(f"{OPENAI}/fine_tuning/jobs/{self.job_id}").json()["fine_tuned_model"]
        return name

    @property
    def idempotency_key(self) -> str:
        return f"{self.word}-1"

    def everything(self) -> list[Any]:
        """Return everything that the tenant can see."""
        task, adaptations = f"/v1/tasks/{self.task_id}", [f"/v1/adaptations/{each}" for each in self.adaptation_ids]
        paths = [
            "/v1/tasks",
            task,
            f"{task}/vector?version=1",
            f"{task}/versions/1/report",
            f"{task}/vector",
            f"{task}/neighbors",
            "/v1/adaptations",
        ]
        paths += [*adaptations, *(f"{path}/events" for path in adaptations)]
        job = f"{OPENAI}/fine_tuning/jobs/{self.job_id}"
        paths += [
            f"{OPENAI}/files",
            f"{OPENAI}/models",
            f"{OPENAI}/fine_tuning/jobs",
            job,
            f"{job}/events",
            f"{OPENAI}/webhook_endpoints",
        ]
        return [self.client.get(path).raise_for_status().json() for path in paths]


@dataclass(frozen=True)
class Attempt:
    """A request for another tenant's data and its expected outcome; `own` is a success without any of that data."""

    path: str
    outcome: Literal["unknown", "empty", "own"] = "unknown"
    options: dict[str, Any] = field(default_factory=dict)


def attempts(a: Owner, b: Owner) -> dict[tuple[str, str], list[Attempt]]:
    """Return all attempts of `b` to reach the data of `a`, by route."""
    succeeded, _, queued = a.adaptation_ids
    task, own_task = f"/v1/tasks/{a.task_id}", f"/v1/tasks/{b.task_id}"
    next_version = {key: value for key, value in a.first_body.items() if key != "name"} | {"task_id": a.task_id}
    key = {"Idempotency-Key": a.idempotency_key}
    foreign, own = {"task_id": a.task_id, "input": "hello"}, {"task_id": b.task_id, "input": "hello"}
    check = {"examples": EXAMPLES, "task_id": a.task_id}
    lines = "\n".join(json.dumps(example) for example in EXAMPLES)
    file = {"file": ("examples.jsonl", lines)}
    stream = {"Accept": "text/event-stream"}
    inputs = {"inputs": ["hello"]}
    openai_file, job = f"{OPENAI}/files/{a.file_id}", f"{OPENAI}/fine_tuning/jobs/{a.job_id}"
    results = [f"{OPENAI}/files/file-steps-{a.job_id.removeprefix('ftjob-')}"]
    new_batch = {"endpoint": "/v1/completions", "completion_window": "24h"}
    new_job = {"model": "gpt-4o-mini", "training_file": b.file_id}
    messages = [{"role": "user", "content": "hello"}]
    webhooks = f"{OPENAI}/webhook_endpoints"
    webhook, a_webhook = f"{webhooks}/{{webhook_endpoint_id}}", f"{webhooks}/{a.webhook_id}"
    new_webhook = {"name": "hook", "url": "https://example.com", "event_types": ["batch.completed"]}
    return {
        ("get", "/v1/tasks/{task_id}/versions/{version}/report"): [Attempt(f"{task}/versions/1/report")],
        ("post", "/v1/tasks/{task_id}/evaluate"): [
            Attempt(f"{task}/evaluate", options={"json": {"examples": a.first_body["examples"]}}),
            Attempt(f"{task}/evaluate", options={"files": file}),
        ],
        ("patch", "/v1/tasks/{task_id}/examples"): [
            Attempt(f"{task}/examples", options={"json": {"version": 3, **changes}, "headers": headers})
            for changes in (
                {"add": EXAMPLES},
                {"remove": [{"id": "exm_0"}], "relabel": [{"id": "exm_0", "output": "a"}]},
            )
            for headers in ({}, key)
        ],
        ("get", f"{OPENAI}/webhook_event_types"): [Attempt(f"{OPENAI}/webhook_event_types", "own")],
        ("post", webhooks): [Attempt(webhooks, "own", {"json": new_webhook})],
        ("get", webhooks): [
            Attempt(webhooks, "own"),
            Attempt(webhooks, options={"params": {"after": a.webhook_id}}),
        ],
        ("get", webhook): [Attempt(a_webhook)],
        ("post", webhook): [Attempt(a_webhook, options={"json": {"name": "stolen"}})],
        ("delete", webhook): [Attempt(a_webhook)],
        ("post", f"{webhook}/rotate_secret"): [Attempt(f"{a_webhook}/rotate_secret")],
        ("post", f"{webhook}/test"): [
            Attempt(f"{a_webhook}/test", options={"json": {"event_type": "batch.completed"}})
        ],
        ("post", "/v1/tasks/{task_id}/retune"): [Attempt(f"{task}/retune", options={"headers": key})],
        ("post", "/v1/datasets/check"): [Attempt("/v1/datasets/check", options={"json": check})],
        ("post", f"{OPENAI}/files"): [
            Attempt(f"{OPENAI}/files", "own", {"data": {"purpose": "fine-tune"}, "files": file})
        ],
        ("get", f"{OPENAI}/files"): [
            Attempt(f"{OPENAI}/files", "own"),
            Attempt(f"{OPENAI}/files", options={"params": {"after": a.file_id}}),
        ],
        ("get", f"{OPENAI}/files/{{file_id}}"): [Attempt(path) for path in (openai_file, *results)],
        ("delete", f"{OPENAI}/files/{{file_id}}"): [Attempt(path) for path in (openai_file, *results)],
        ("get", f"{OPENAI}/files/{{file_id}}/content"): [
            Attempt(f"{path}/content") for path in (openai_file, *results)
        ],
        ("post", f"{OPENAI}/fine_tuning/jobs"): [
            Attempt(f"{OPENAI}/fine_tuning/jobs", options={"json": new_job | {"training_file": a.file_id}}),
            Attempt(f"{OPENAI}/fine_tuning/jobs", options={"json": new_job | {"validation_file": a.file_id}}),
            Attempt(
                f"{OPENAI}/fine_tuning/jobs",
                "own",
                {"json": new_job, "headers": {"Idempotency-Key": f"{a.word}-job"}},
            ),
        ],
        ("get", f"{OPENAI}/fine_tuning/jobs"): [
            Attempt(f"{OPENAI}/fine_tuning/jobs", "own"),
            Attempt(f"{OPENAI}/fine_tuning/jobs", options={"params": {"after": a.job_id}}),
        ],
        ("get", f"{OPENAI}/fine_tuning/jobs/{{fine_tuning_job_id}}"): [Attempt(job)],
        ("post", f"{OPENAI}/fine_tuning/jobs/{{fine_tuning_job_id}}/cancel"): [Attempt(f"{job}/cancel")],
        ("post", f"{OPENAI}/fine_tuning/jobs/{{fine_tuning_job_id}}/pause"): [Attempt(f"{job}/pause")],
        ("post", f"{OPENAI}/fine_tuning/jobs/{{fine_tuning_job_id}}/resume"): [Attempt(f"{job}/resume")],
        ("get", f"{OPENAI}/fine_tuning/jobs/{{fine_tuning_job_id}}/events"): [
            Attempt(f"{job}/events"),
            Attempt(f"{job}/events", options={"params": {"after": f"ftevent-{'0' * 24}-2"}}),
        ],
        ("get", f"{OPENAI}/fine_tuning/jobs/{{fine_tuning_job_id}}/checkpoints"): [
            Attempt(f"{job}/checkpoints"),
            Attempt(f"{job}/checkpoints", options={"params": {"after": a.job_id}}),
        ],
        ("get", f"{OPENAI}/models"): [Attempt(f"{OPENAI}/models", "own")],
        ("get", f"{OPENAI}/models/{{name}}"): [Attempt(f"{OPENAI}/models/{a.model}")],
        ("delete", f"{OPENAI}/models/{{name}}"): [Attempt(f"{OPENAI}/models/{a.model}")],
        ("post", f"{OPENAI}/chat/completions"): [
            Attempt(f"{OPENAI}/chat/completions", options={"json": {"model": a.model, "messages": messages}})
        ],
        ("post", "/v1/classify"): [
            Attempt("/v1/classify", "own", {"json": {"examples": EXAMPLES, "inputs": ["hello"]}})
        ],
        ("post", f"{OPENAI}/embeddings"): [
            Attempt(f"{OPENAI}/embeddings", options={"json": {"model": a.model, "input": "hello"}})
        ],
        ("post", f"{OPENAI}/batches"): [
            Attempt(f"{OPENAI}/batches", options={"json": new_batch | {"input_file_id": a.batch_file_id}})
        ],
        ("get", f"{OPENAI}/batches"): [
            Attempt(f"{OPENAI}/batches", "own"),
            Attempt(f"{OPENAI}/batches", options={"params": {"after": a.batch_id}}),
        ],
        ("get", f"{OPENAI}/batches/{{batch_id}}"): [Attempt(f"{OPENAI}/batches/{a.batch_id}")],
        ("post", f"{OPENAI}/batches/{{batch_id}}/cancel"): [Attempt(f"{OPENAI}/batches/{a.batch_id}/cancel")],
        ("post", f"{OPENAI}/completions"): [
            Attempt(f"{OPENAI}/completions", options={"json": {"model": a.model, "prompt": "hello"}})
        ],
        ("post", "/v1/adaptations"): [
            Attempt("/v1/adaptations", options={"json": next_version}),
            Attempt("/v1/adaptations", options={"json": next_version, "headers": key}),
            Attempt("/v1/adaptations", "own", {"json": b.first_body, "headers": key}),
            Attempt("/v1/adaptations", options={"data": {"task_id": a.task_id}, "files": file}),
        ],
        ("get", "/v1/adaptations"): [
            Attempt("/v1/adaptations", "own"),
            Attempt("/v1/adaptations", "own", {"params": {"state": "queued"}}),
            Attempt("/v1/adaptations", "empty", {"params": {"task_id": a.task_id}}),
            *(Attempt("/v1/adaptations", options={"params": {"after": each}}) for each in a.adaptation_ids),
        ],
        ("get", "/v1/adaptations/{adaptation_id}"): [Attempt(f"/v1/adaptations/{each}") for each in a.adaptation_ids],
        ("get", "/v1/adaptations/{adaptation_id}/events"): [
            *(Attempt(f"/v1/adaptations/{each}/events") for each in a.adaptation_ids),
            Attempt(f"/v1/adaptations/{succeeded}/events", options={"params": {"after": 1}}),
            *(Attempt(f"/v1/adaptations/{each}/events", options={"headers": stream}) for each in (succeeded, queued)),
            Attempt(f"/v1/adaptations/{queued}/events", options={"headers": stream | {"Last-Event-ID": "1"}}),
        ],
        ("post", "/v1/adaptations/{adaptation_id}/cancel"): [
            Attempt(f"/v1/adaptations/{each}/cancel") for each in a.adaptation_ids
        ],
        ("post", "/v1/adaptations/{adaptation_id}/pause"): [Attempt(f"/v1/adaptations/{queued}/pause")],
        ("post", "/v1/adaptations/{adaptation_id}/resume"): [Attempt(f"/v1/adaptations/{queued}/resume")],
        ("get", "/v1/tasks"): [
            Attempt("/v1/tasks", "own"),
            Attempt("/v1/tasks", options={"params": {"after": a.task_id}}),
        ],
        ("get", "/v1/tasks/{task_id}"): [Attempt(task)],
        ("delete", "/v1/tasks/{task_id}"): [Attempt(task)],
        ("get", "/v1/tasks/{task_id}/versions"): [
            Attempt(f"{task}/versions"),
            Attempt(f"{task}/versions", options={"params": {"after": 2}}),
        ],
        ("post", "/v1/tasks/{task_id}/promote"): [Attempt(f"{task}/promote", options={"json": {"version": 1}})],
        ("patch", "/v1/tasks/{task_id}"): [Attempt(task, options={"json": {"promote": "manual"}})],
        ("get", "/v1/tasks/{task_id}/examples"): [
            Attempt(f"{task}/examples"),
            Attempt(f"{task}/examples", options={"params": {"after": 1, "label": f"{a.word} billing"}}),
        ],
        ("get", "/v1/tasks/{task_id}/examples/file"): [
            Attempt(f"{task}/examples/file", options={"params": {"format": "csv", "label": f"{a.word} billing"}})
        ],
        ("get", "/v1/tasks/{task_id}/examples/suspects"): [Attempt(f"{task}/examples/suspects")],
        ("get", "/v1/tasks/{task_id}/examples/history"): [
            Attempt(f"{task}/examples/history"),
            Attempt(f"{task}/examples/history", options={"params": {"after": 2}}),
        ],
        ("get", "/v1/tasks/{task_id}/usage"): [
            Attempt(f"{task}/usage"),
            Attempt(f"{task}/usage", options={"params": {"after": 4_000_000_000}}),
        ],
        ("get", "/v1/tasks/{task_id}/vector"): [
            Attempt(f"{task}/vector"),
            Attempt(f"{task}/vector", options={"params": {"version": 1}}),
        ],
        ("get", "/v1/tasks/{task_id}/neighbors"): [
            Attempt(f"{task}/neighbors"),
            Attempt(f"{own_task}/neighbors", "own"),
        ],
        ("post", "/v1/tasks/{task_id}/predict"): [
            Attempt(f"{task}/predict", options={"json": inputs}),
            Attempt(f"{task}/predict", options={"json": inputs | {"version": 1}}),
        ],
        ("post", "/v1/tasks/{task_id}/generate"): [
            Attempt(f"{task}/generate", options={"json": {"input": "hello"} | changes})
            for changes in ({}, {"version": 1}, {"stream": True})
        ],
        ("post", "/v1/tasks/{task_id}/suggest"): [
            Attempt(f"{task}/suggest", options={"json": body}) for body in (inputs, inputs | {"version": 1}, {})
        ],
        ("get", "/v1/tasks/{task_id}/label-studio/health"): [Attempt(f"{task}/label-studio/health")],
        ("post", "/v1/tasks/{task_id}/label-studio/setup"): [
            Attempt(f"{task}/label-studio/setup", options={"json": {"schema": LABEL_CONFIG}})
        ],
        ("post", "/v1/tasks/{task_id}/label-studio/predict"): [
            Attempt(
                f"{task}/label-studio/predict",
                options={"json": {"tasks": [{"id": 1, "data": {"text": "hello"}}], "label_config": LABEL_CONFIG}},
            )
        ],
        ("post", "/v1/tasks/{task_id}/label-studio/webhook"): [
            Attempt(f"{task}/label-studio/webhook", options={"json": {"action": action}, "headers": headers})
            for action in ("START_TRAINING", "ANNOTATION_CREATED")
            for headers in ({}, key)
        ],
        ("post", "/v1/predict"): [
            Attempt("/v1/predict", options={"json": {"requests": requests}})
            for requests in ([foreign], [own, foreign], [foreign, own])
        ],
    }
