"""Messages of the outbox reach their receivers, whatever fails on the way, and no address that is not allowed."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from ipaddress import ip_network
from typing import get_args

import openai
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, func, select, update

from app.db.file_models import Batch
from app.db.ids import new_id
from app.db.models import Tenant
from app.db.session import transaction
from app.db.webhook_models import WebhookDelivery, WebhookEndpoint
from app.errors import ErrorDetail
from app.openai.webhooks import repository, sender
from app.openai.webhooks.addresses import Resolve, resolve
from app.openai.webhooks.deliverer import CONCURRENCY, Deliverer
from app.openai.webhooks.messages import new_secret
from app.openai.webhooks.metrics import Outcome
from app.openai.webhooks.sender import Sender
from app.queue import lifecycle
from app.settings import DEFAULT_TENANT
from tests.support.claims import claim
from tests.support.jobs import Enqueue
from tests.support.receivers import NewReceiver, receiving

FAILURE = ErrorDetail(message="no", type="internal_error", param=None, code="internal_error")
Add = Callable[..., str]
Deliver = Callable[..., None]


@pytest.fixture
def new_receiver() -> Iterator[NewReceiver]:
    """Start receivers that run until the end of the test."""
    with ExitStack() as stack:
        yield lambda *address: stack.enter_context(receiving(*address))


@pytest.fixture
def add(engine: Engine) -> Add:
    """Add an endpoint, with messages that are due; returns its id."""

    def add(url: str, messages: int = 1, tenant: str = DEFAULT_TENANT) -> str:
        with transaction(engine) as session:
            session.merge(Tenant(id=tenant))
            session.flush()
            types = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "batch.completed"]
            endpoint = WebhookEndpoint(
                id=new_id("wh"), tenant_id=tenant, name="hook", url=url, event_types=types, secret=new_secret()
            )
            session.add(endpoint)
            session.flush()
            for number in range(messages):
                object_id = f"ftjob-{number}"
                session.add(
                    WebhookDelivery(
                        endpoint_id=endpoint.id, event_id=f"evt_{number}", tenant_id=tenant,
                        type="fine_tuning.job.succeeded", object_id=object_id,
                    )
                )  # fmt: skip
            return endpoint.id

    return add


@pytest.fixture
def deliver(engine: Engine) -> Deliver:
    """Send what is due until nothing is."""

    def deliver(allowed: Sequence[str] = ("127.0.0.1",), resolve: Resolve = resolve) -> None:
        async def main() -> None:
            sender = Sender([ip_network(each) for each in allowed], resolve)
            deliverer = Deliverer(engine, sender)
            while in_flight := await deliverer.start_due():
                await asyncio.wait(in_flight)
            sender.close()

        asyncio.run(main())

    return deliver


def outbox(engine: Engine) -> list[WebhookDelivery]:
    with transaction(engine) as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.event_id)))


def deliveries(outcome: Outcome) -> float:
    return REGISTRY.get_sample_value("ipt_webhook_deliveries_total", {"outcome": outcome}) or 0.0


def last_error(engine: Engine, endpoint_id: str) -> str | None:
    with transaction(engine) as session:
        return session.get_one(WebhookEndpoint, endpoint_id).last_error


def test_messages_are_signed_and_sent_once(
    engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver
) -> None:
    receiver = new_receiver()
    endpoint_id = add(receiver.url, 3)
    delivered = deliveries("delivered")
    deliver()
    deliver()
    assert deliveries("delivered") == delivered + 3
    with transaction(engine) as session:
        secret = session.get_one(WebhookEndpoint, endpoint_id).secret
    unwrap = openai.OpenAI(api_key="any").webhooks.unwrap
    events = [unwrap(body, headers, secret=secret) for headers, body in receiver.messages]
    assert [(event.id, event.data.id) for event in events] == [(f"evt_{i}", f"ftjob-{i}") for i in range(3)]
    assert outbox(engine) == []
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrap(receiver.messages[0][1] + b" ", receiver.messages[0][0], secret=secret)


def test_a_receiver_that_never_answers_delays_no_other_tenant(
    engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "SEND_SECONDS", 0.3)
    silent, other = new_receiver(), new_receiver()
    silent.answering.clear()
    endpoint_id = add(silent.url, CONCURRENCY + 1)
    add(other.url, tenant="other")
    with transaction(engine) as session:
        claimed = repository.claim(session, CONCURRENCY, 60)
        assert {claim.url for claim in claimed} == {silent.url, other.url}
        session.rollback()
    with transaction(engine) as session:
        session.execute(
            update(WebhookDelivery).where(WebhookDelivery.event_id > "evt_0").values(due_at=func.now() + timedelta(1))
        )
    deliver()
    assert len(other.messages) == 1
    assert len(silent.messages) == 1
    assert last_error(engine, endpoint_id) == "the receiver did not answer within 0 seconds"
    assert len(outbox(engine)) == CONCURRENCY + 1


def test_a_receiver_that_fails_is_tried_again_for_a_day(
    engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver
) -> None:
    receiver = new_receiver()
    receiver.status = 500
    endpoint_id = add(receiver.url)
    counted = {outcome: deliveries(outcome) for outcome in get_args(Outcome)}
    waits = []
    while True:
        deliver()
        if not outbox(engine):
            break
        [message] = outbox(engine)
        assert message.lease_until is None
        with transaction(engine) as session:
            # Let the wait pass.
            row = session.get_one(WebhookDelivery, (endpoint_id, "evt_0"))
            now = session.execute(select(func.now())).scalar_one()
            waits.append(row.due_at - now)
            row.created_at -= waits[-1]
            row.due_at = now
    assert timedelta(hours=20) < sum(waits, timedelta()) < timedelta(days=1)
    assert waits[0] < timedelta(seconds=10)
    assert 10 < len(waits) < 25
    assert {headers["webhook-id"] for headers, _ in receiver.messages} == {"evt_0"}
    assert deliveries("failed") == counted["failed"] + len(waits)
    assert deliveries("given_up") == counted["given_up"] + 1
    assert deliveries("delivered") == counted["delivered"]
    assert last_error(engine, endpoint_id) == "the receiver answered with status 500"


def test_a_success_clears_the_error(engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver) -> None:
    receiver = new_receiver()
    receiver.status = 503
    endpoint_id = add(receiver.url)
    deliver()
    receiver.status = 204
    with transaction(engine) as session:
        session.execute(update(WebhookDelivery).values(due_at=func.now()))
    deliver()
    assert (last_error(engine, endpoint_id), outbox(engine), len(receiver.messages)) == (None, [], 2)


def test_a_redirect_is_not_followed(engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver) -> None:
    receiver, private = new_receiver(), new_receiver("127.0.0.2")
    receiver.status, receiver.headers = 307, {"location": private.url}
    endpoint_id = add(receiver.url)
    deliver()
    assert (len(receiver.messages), private.messages) == (1, [])
    assert "redirects are not followed" in (last_error(engine, endpoint_id) or "")


def test_a_name_whose_address_changes_reaches_only_the_checked_address(
    add: Add, deliver: Deliver, new_receiver: NewReceiver
) -> None:
    allowed = new_receiver()
    private = new_receiver("127.0.0.2", allowed.port)
    add(f"http://rebinding.example:{allowed.port}/")
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    deliver(resolve=lambda *_: answers.pop(0))
    assert (len(allowed.messages), private.messages) == (1, [])
    assert allowed.messages[0][0]["host"] == f"rebinding.example:{allowed.port}"
    assert answers == [["127.0.0.2"]]


def test_a_name_of_a_private_address_is_not_reached(
    engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver
) -> None:
    private, allowed = new_receiver("127.0.0.2"), new_receiver()
    endpoint_id = add(f"http://intern.example:{private.port}/")
    add(f"http://127.0.0.2:{private.port}/", tenant="other")  # as before the operator narrowed the networks
    add(f"http://both.example:{allowed.port}/", tenant="third")
    addresses = {
        "intern.example": ["127.0.0.2"],
        "127.0.0.2": ["127.0.0.2"],
        "both.example": ["127.0.0.2", "127.0.0.1"],
    }
    deliver(resolve=lambda host, _: addresses[host])
    assert (private.messages, len(allowed.messages)) == ([], 1)
    assert "private" in (last_error(engine, endpoint_id) or "")


def test_an_unforeseen_failure_counts_as_an_attempt(engine: Engine, add: Add, deliver: Deliver) -> None:
    endpoint_id = add("https://example.com")

    def fail(host: str, port: int) -> list[str]:
        raise RuntimeError(f"{host}:{port}")

    deliver(resolve=fail)
    [message] = outbox(engine)
    assert (message.attempts, message.lease_until) == (1, None)
    assert "could not be sent" in (last_error(engine, endpoint_id) or "")


def test_a_message_whose_process_died_is_sent_again(
    engine: Engine, add: Add, deliver: Deliver, new_receiver: NewReceiver
) -> None:
    receiver = new_receiver()
    add(receiver.url)
    with transaction(engine) as session:
        [lost] = repository.claim(session, 1, lease_seconds=60)
    deliver()
    assert receiver.messages == []
    with transaction(engine) as session:
        session.execute(update(WebhookDelivery).values(lease_until=func.now()))
        [second] = repository.claim(session, 1, lease_seconds=0)
        repository.postpone(session, lost, timedelta(days=1))  # too late: the claim is another process's
    deliver()
    assert (second.attempts, len(receiver.messages), outbox(engine)) == (2, 1, [])


@pytest.mark.parametrize(("outcome", "subscribed"), [("failed", True), ("cancelled", False)])
def test_the_outbox_is_written_with_the_outcome_of_a_fine_tuning_job(
    engine: Engine, enqueue: Enqueue, subspace: None, add: Add, outcome: str, subscribed: bool
) -> None:
    add("https://example.com", messages=0)
    adaptation_id = enqueue(fine_tuning={"model": "backbone"})
    enqueue()  # a native adaptation
    leases = [claimed.lease for claimed in claim(engine)]

    def end_and(commit: bool) -> None:
        with transaction(engine) as session:
            for lease in leases:
                if outcome == "failed":
                    lifecycle.fail(session, lease, FAILURE)
                else:
                    lifecycle.cancel_running(session, lease)
            if not commit:
                session.rollback()

    end_and(commit=False)
    assert outbox(engine) == []
    end_and(commit=True)
    written = [(each.type, each.object_id, each.event_id) for each in outbox(engine)]
    body = adaptation_id.removeprefix("adp_")
    assert written == [("fine_tuning.job.failed", f"ftjob-{body}", f"evt_{body}")] * subscribed


def test_a_batch_that_ends_is_in_the_outbox(engine: Engine, add: Add) -> None:
    add("https://example.com", messages=0)
    batch_id = new_id("batch")
    with transaction(engine) as session:
        session.add(
            Batch(
                id=batch_id, tenant_id=DEFAULT_TENANT, endpoint="/v1/embeddings", input_file_id="file-1", total=1,
                expires_at=func.now() + timedelta(days=1),
            )
        )  # fmt: skip
    for state in ("cancelling", "completed"):
        with transaction(engine) as session:
            session.get_one(Batch, batch_id).state = state
    assert [(each.type, each.object_id) for each in outbox(engine)] == [("batch.completed", batch_id)]
