"""Webhook endpoints, through OpenAI's client, and messages from a running service."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from standardwebhooks import Webhook

from app.openai.webhooks import service
from tests.app.openai.test_training_data import chat
from tests.support.processes import until
from tests.support.receivers import receiving
from tests.support.service import EXAMPLES, Serve

URL = "https://example.com/hook"
TRAINING = b"\n".join(chat(each["input"], each["output"]) for each in EXAMPLES)
JOB_CANCELLED: Any = ["fine_tuning.job.cancelled"]


def register(client: openai.OpenAI, **changes: Any) -> Any:
    return client.webhooks.create(**({"name": "jobs", "url": URL, "event_types": JOB_CANCELLED} | changes))


def test_an_endpoint_is_registered_changed_and_deleted(openai_client: openai.OpenAI) -> None:
    webhooks = openai_client.webhooks
    created = register(openai_client)
    assert (created.object, created.url, created.event_types) == ("webhook_endpoint", URL, JOB_CANCELLED)
    assert created.signing_secret.startswith("whsec_")
    shown = webhooks.retrieve(created.id)
    assert created.signing_secret not in shown.to_json()
    assert created.signing_secret.endswith((shown.signing_secret_hint or "").removeprefix("…"))
    changed = webhooks.update(created.id, name="batches", event_types=["batch.completed"])
    assert (changed.name, changed.url, changed.event_types) == ("batches", URL, ["batch.completed"])
    rotated = webhooks.rotate_secret(created.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != created.signing_secret
    others = [register(openai_client).id for _ in range(2)]
    assert [each.id for each in webhooks.list(limit=2)] == [*others[::-1], created.id]
    assert webhooks.delete(created.id).deleted
    with pytest.raises(openai.NotFoundError):
        webhooks.retrieve(created.id)
    assert set(JOB_CANCELLED) < set(webhooks.event_types.list().data)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"url": "http://127.0.0.1/"}, "url", "IPT_WEBHOOK_PRIVATE_NETWORKS"),
        ({"url": "http://localhost:8000/hook"}, "url", "private address"),
        ({"url": "http://[::ffff:169.254.169.254]/"}, "url", "private address"),
        ({"url": "https://example.com:99999"}, "url", "expected https://HOST/PATH"),
        ({"url": "ftp://example.com"}, "url", "expected https://HOST/PATH"),
        ({"url": "https://user:password@example.com"}, "url", "without user name"),
        ({"url": "example.com/hook"}, "url", "expected https://HOST/PATH"),
        ({"event_types": []}, "event_types", "at least 1"),
        ({"event_types": ["response.completed"]}, "event_types[0]", "batch.completed"),
    ],
)
def test_a_wrong_endpoint_is_rejected(
    openai_client: openai.OpenAI, changes: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as raised:
        register(openai_client, **changes)
    assert raised.value.param == param
    created = register(openai_client)
    with pytest.raises(openai.BadRequestError, match=words):
        openai_client.webhooks.update(created.id, **changes)


def test_a_tenant_has_a_limit_of_endpoints(
    openai_client: openai.OpenAI, new_openai: Callable[..., openai.OpenAI]
) -> None:
    for _ in range(service.MAX_ENDPOINTS):
        register(openai_client)
    with pytest.raises(openai.BadRequestError, match="delete one"):
        register(openai_client)
    register(new_openai())


def test_a_message_arrives_when_a_job_ends(serve: Serve) -> None:
    with receiving() as receiver, serve(webhook_private_networks="127.0.0.1") as http:
        client = openai.OpenAI(base_url=f"{http.base_url}/openai/v1", api_key="any", max_retries=0)
        former = register(client, url=receiver.url).signing_secret
        [endpoint] = client.webhooks.list()
        secret = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True).signing_secret
        file = client.files.create(file=("tickets.jsonl", TRAINING), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(training_file=file.id, model="gpt-4o-mini")
        client.fine_tuning.jobs.cancel(job.id)
        [(headers, body)] = until(lambda: receiver.messages, 60)
        for each in (secret, former):
            event = client.webhooks.unwrap(body, headers, secret=each)
            assert (event.type, event.data.id) == ("fine_tuning.job.cancelled", job.id)
            Webhook(each).verify(body, headers)
        receiver.status = 410
        result = client.webhooks.test(endpoint.id, event_type="batch.completed")
        assert (result.status_code, result.webhook_endpoint_id) == (410, endpoint.id)
        client.webhooks.update(endpoint.id, url="http://127.0.0.1:1/")
        with pytest.raises(openai.BadRequestError, match="connection to the receiver failed"):
            client.webhooks.test(endpoint.id, event_type="batch.completed")
