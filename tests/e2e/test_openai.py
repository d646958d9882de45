"""Programs for OpenAI's API against a real service in a child process: its client, the example script, and curl.

A batch survives the death of the service that answers it.
"""

import asyncio
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from sqlalchemy import Engine, func, select, update

from app.cli.service_process import child_process, running_service
from app.db.file_models import Batch
from app.db.models import Dataset
from app.db.session import transaction
from app.settings import Settings
from tests.app.openai.test_training_data import chat
from tests.support.jobs import settings  # noqa: F401, a fixture
from tests.support.processes import environment, until
from tests.support.receivers import Receiver, receiving
from tests.support.service import EXAMPLES

SCRIPT = Path(__file__).parents[2] / "examples" / "openai_migration.py"
TRAINING = b"\n".join(chat(each["input"], each["output"]) for each in EXAMPLES)
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
LABELS = {"billing", "login"}
EVENT_TYPES = ["fine_tuning.job.succeeded", "fine_tuning.job.cancelled", "batch.completed"]
# Tuning with this learning rate improves for so long that it does not end by itself.
ENDLESS = {"n_epochs": 10_000, "learning_rate_multiplier": 0.003}
KEY = "k" * 16
REQUESTS = 400

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def base_url(
    tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of OpenAI's API on a service without API keys."""
    folder = tmp_path_factory.mktemp("service")
    variables = {
        "IPT_BACKBONE": str(tiny_backbone_dir),
        "IPT_SUBSPACE": str(tiny_subspace_dir),
        "IPT_DEVICE": "cpu",
        "IPT_DATA_DIR": str(folder / "data"),
        "IPT_WEBHOOK_PRIVATE_NETWORKS": "127.0.0.1",
    }
    with running_service(folder / "log", os.environ | variables) as service:
        yield f"{service.url}/openai/v1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks on this machine."""
    with receiving() as receiver:
        yield receiver


async def settled(value: Any) -> Any:
    """Return what a call of either client returns."""
    return await value if inspect.isawaitable(value) else value


async def listed(values: Any) -> list[Any]:
    """Return all items of all pages, or of a stream, of either client."""
    values = await settled(values)
    return [value async for value in values] if hasattr(values, "__aiter__") else list(values)


async def ended(retrieve: Callable[[str], Any], id_: str, *states: str) -> Any:
    """Wait until a job or a batch has one of some states, and return it."""
    while (row := await settled(retrieve(id_))).status not in states:
        assert row.status not in ("failed", "cancelled", "expired"), row
        await asyncio.sleep(0.05)
    return row


@pytest.mark.parametrize("client_type", [openai.OpenAI, openai.AsyncOpenAI])
def test_the_story_with_either_client(
    base_url: str, receiver: Receiver, client_type: type[openai.OpenAI] | type[openai.AsyncOpenAI]
) -> None:
    client: Any = client_type(base_url=base_url, api_key="any", max_retries=0)
    asyncio.run(story(client, receiver))


async def story(client: Any, receiver: Receiver) -> None:
    """Use every resource once."""
    webhook = await settled(client.webhooks.create(name="story", url=receiver.url, event_types=EVENT_TYPES))
    file = await settled(client.files.create(file=("tickets.jsonl", TRAINING), purpose="fine-tune"))
    file = await settled(client.files.wait_for_processing(file.id, poll_interval=0.05))
    assert (file.status, file.bytes) == ("processed", len(TRAINING))

    endless = await paused_and_resumed(client, file.id)
    cancelled = await settled(client.fine_tuning.jobs.cancel(endless))
    assert cancelled.status == "cancelled"
    job = await tuned(client, file.id)
    jobs = await listed(client.fine_tuning.jobs.list(limit=1))
    assert [each.id for each in jobs][:2] == [job.id, endless]

    model = job.fine_tuned_model
    label = await answered(client, model)
    batch = await batch_answered(client, model, label)

    def received() -> list[Any]:
        messages = list(receiver.messages)
        return [client.webhooks.unwrap(body, headers, secret=webhook.signing_secret) for headers, body in messages]

    await asyncio.to_thread(until, lambda: len(received()) == len(EVENT_TYPES))
    by_type = {event.type: event.data.id for event in received()}
    assert by_type == dict(zip(EVENT_TYPES, [job.id, endless, batch], strict=True))
    await settled(client.webhooks.delete(webhook.id))

    assert model in [each.id for each in await listed(client.models.list())]
    assert (await settled(client.models.delete(model))).deleted
    with pytest.raises(openai.NotFoundError):
        await settled(client.chat.completions.create(model=model, messages=QUESTION))
    for each in await listed(client.files.list(limit=1)):
        assert (await settled(client.files.delete(each.id))).deleted
    assert await listed(client.files.list()) == []
    await settled(client.close())


async def paused_and_resumed(client: Any, file_id: str) -> str:
    """Pause and resume a job that does not end by itself; return its id."""
    jobs = client.fine_tuning.jobs
    method = {"type": "supervised", "supervised": {"hyperparameters": ENDLESS}}
    job = await settled(jobs.create(training_file=file_id, model="gpt-4o-mini", method=method))
    assert job.status == "queued"
    await ended(jobs.retrieve, job.id, "running")
    await settled(jobs.pause(job.id))
    await ended(jobs.retrieve, job.id, "paused")
    assert (await settled(jobs.resume(job.id))).status in ("queued", "running")
    await ended(jobs.retrieve, job.id, "running")
    events = [event.message for event in await listed(jobs.list_events(job.id))]
    assert "Fine-tuning job paused" in events
    return str(job.id)


async def tuned(client: Any, file_id: str) -> Any:
    """Return a job that has succeeded, after a look at its events, its checkpoint and its result file."""
    jobs = client.fine_tuning.jobs
    job = await settled(jobs.create(training_file=file_id, model="gpt-3.5-turbo", hyperparameters={"n_epochs": 1}))
    job = await ended(jobs.retrieve, job.id, "succeeded")
    events = [event.message for event in await listed(jobs.list_events(job.id, limit=1))]
    assert events[0].startswith("The job has successfully completed")
    assert events[-1].startswith("Created fine-tuning job")
    [checkpoint] = await listed(jobs.checkpoints.list(job.id))
    assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model
    metrics = (await settled(client.files.content(job.result_files[0]))).text
    assert metrics.startswith("step,train_loss,")
    return job


async def answered(client: Any, model: str) -> str:
    """Return the model's answer to the question, after asking for it in every way."""
    ask = client.chat.completions.create
    answer = await settled(ask(model=model, messages=QUESTION, logprobs=True, top_logprobs=2))
    [choice] = answer.choices
    [token] = choice.logprobs.content
    assert {each.token for each in token.top_logprobs} == LABELS
    label = str(choice.message.content)
    assert token.token == label
    *chunks, last = await listed(
        ask(model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == label
    assert (last.choices, last.usage) == ([], answer.usage)
    completion = await settled(client.completions.create(model=model, prompt="hello", logprobs=2))
    assert completion.choices[0].text == label
    assert completion.choices[0].logprobs.tokens == [label]
    embedded = await settled(client.embeddings.create(model=model, input=["hello", "invoice"]))
    assert [len(each.embedding) for each in embedded.data] == [32, 32]
    return label


async def batch_answered(client: Any, model: str, label: str) -> str:
    """Let a batch ask the question too, beside a request that is wrong; return its id."""
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": model, **body}}
        for name, body in {"right": {"messages": QUESTION}, "wrong": {"messages": []}}.items()
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = await settled(client.files.create(file=("requests.jsonl", content), purpose="batch"))
    options = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = await settled(client.batches.create(input_file_id=file.id, **options))
    batch = await ended(client.batches.retrieve, batch.id, "completed")
    [right] = (await settled(client.files.content(batch.output_file_id))).text.splitlines()
    [wrong] = (await settled(client.files.content(batch.error_file_id))).text.splitlines()
    assert json.loads(right)["response"]["body"]["choices"][0]["message"]["content"] == label
    assert (json.loads(wrong)["custom_id"], json.loads(wrong)["response"]["status_code"]) == ("wrong", 400)
    return str(batch.id)


def test_a_script_for_openai_runs_unchanged(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    assert printed.startswith("Created fine-tuning job: ftjob-")
    assert re.search(r"^Step \d+/\d+: training loss=\d+\.\d+$", printed, re.MULTILINE)
    assert "\nThe job has successfully completed." in printed
    assert "\nstep,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n" in printed
    assert re.search(r"^\d+,\d+\.\d+,,", printed, re.MULTILINE), "a training loss"
    assert re.search(r"^\d+,[^,]*,,\d+\.\d+,", printed, re.MULTILINE), "a validation loss"
    labels = {json.loads(line)["output"] for line in SCRIPT.with_name("support_tickets.jsonl").read_text().splitlines()}
    assert set(re.findall(r"-> (.*)$", printed, re.MULTILINE)) <= labels


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_story_with_curl(base_url: str, tmp_path: Path) -> None:
    def curl(path: str, *options: str) -> str:
        command = ["curl", "-sS", "--fail-with-body", "-H", "Authorization: Bearer any", *options, f"{base_url}{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def post(path: str, body: dict[str, Any]) -> str:
        return curl(path, "--json", json.dumps(body))

    (tmp_path / "tickets.jsonl").write_bytes(TRAINING)
    file = json.loads(curl("/files", "-F", "purpose=fine-tune", "-F", f"file=@{tmp_path / 'tickets.jsonl'}"))
    job_input = {"model": "gpt-4o-mini", "training_file": file["id"], "hyperparameters": {"n_epochs": 1}}
    job = json.loads(post("/fine_tuning/jobs", job_input))
    while job["status"] != "succeeded":
        assert job["status"] in ("queued", "running")
        time.sleep(0.1)
        job = json.loads(curl(f"/fine_tuning/jobs/{job['id']}"))
    question = {"model": job["fine_tuned_model"], "messages": QUESTION}
    label = json.loads(post("/chat/completions", question))["choices"][0]["message"]["content"]
    assert label in LABELS
    *chunks, end = post("/chat/completions", question | {"stream": True}).split("\n\n")[:-1]
    assert end == "data: [DONE]"
    pieces = [json.loads(chunk.removeprefix("data: "))["choices"][0]["delta"].get("content") for chunk in chunks]
    assert "".join(filter(None, pieces)) == label
    assert json.loads(curl(f"/models/{job['fine_tuned_model']}", "-X", "DELETE"))["deleted"]
    with pytest.raises(subprocess.CalledProcessError) as raised:
        post("/chat/completions", question)
    assert json.loads(raised.value.stdout)["error"]["code"] == "model_not_found"


def test_a_job_that_fails_sends_a_webhook_and_says_why(
    settings: Settings,  # noqa: F811
    engine: Engine,
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    variables = environment(settings) | {"IPT_API_KEY": KEY, "IPT_WEBHOOK_PRIVATE_NETWORKS": "127.0.0.1"}
    with running_service(tmp_path / "log", variables) as service:
        client = openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=KEY)
        webhook = client.webhooks.create(name="failures", url=receiver.url, event_types=["fine_tuning.job.failed"])
        file = client.files.create(file=("tickets.jsonl", TRAINING), purpose="fine-tune")
        method = {"type": "supervised", "supervised": {"hyperparameters": ENDLESS}}
        job = client.fine_tuning.jobs.create(training_file=file.id, model="gpt-4o-mini", method=method)
        client.fine_tuning.jobs.pause(job.id)
        until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "paused")
        with transaction(engine) as session:  # as if the stored examples were damaged
            session.execute(update(Dataset).values(examples=[each | {"output": "same"} for each in EXAMPLES]))
        client.fine_tuning.jobs.resume(job.id)
        with child_process([sys.executable, "-m", "worker"], tmp_path / "worker.log", variables):
            until(lambda: receiver.messages)
        [(headers, body)] = receiver.messages
        event = client.webhooks.unwrap(body, headers, secret=webhook.signing_secret)
        assert (event.type, event.data.id) == ("fine_tuning.job.failed", job.id)
        job = client.fine_tuning.jobs.retrieve(job.id)
        assert (job.status, job.fine_tuned_model) == ("failed", None)
        assert job.error is not None
        assert "all examples have the same output" in job.error.message


def test_a_batch_whose_service_is_killed_is_completed_by_the_next_one(
    settings: Settings,  # noqa: F811
    engine: Engine,
    tmp_path: Path,
) -> None:
    def answered() -> int:
        with transaction(engine) as session:
            return session.scalar(select(Batch.completed)) or 0

    body = {"model": "text-embedding-3-small", "input": "hello"}
    lines = [
        {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
        for number in range(REQUESTS)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    variables = environment(settings) | {"IPT_API_KEY": KEY}
    with running_service(tmp_path / "first.log", variables) as service:
        client = openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=KEY)
        file = client.files.create(file=("requests.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        until(answered)
        service.process.kill()
        service.process.wait()
    assert 0 < answered() < REQUESTS
    with transaction(engine) as session:
        session.execute(update(Batch).values(lease_until=func.now()))  # as if the minute of the lease were over
    with running_service(tmp_path / "second.log", variables) as service:
        client = openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=KEY)
        until(lambda: client.batches.retrieve(batch.id).status == "completed")
        batch = client.batches.retrieve(batch.id)
        assert batch.error_file_id is None
        assert batch.output_file_id is not None
        answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [line["custom_id"] for line in lines]
    assert {answer["response"]["status_code"] for answer in answers} == {200}
