"""The example script, which is written for OpenAI's API, and every resource in one story with either client."""

import asyncio
import json
import re
import runpy
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from sqlalchemy import Engine

from app.settings import Settings
from tests.app.openai.test_training_data import chat
from tests.support.service import EXAMPLES, Serve
from worker.drain import Drainer
from worker.lazy_model import LazyModel

SCRIPT = Path(__file__).parents[3] / "examples" / "openai_migration.py"

TRAINING = b"\n".join(chat(each["input"], each["output"]) for each in EXAMPLES)
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
LABELS = {"billing", "login"}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def base_url(serve: Serve, engine: Engine, settings: Settings) -> Iterator[str]:
    """A service without API keys, and a worker beside it."""
    stop = threading.Event()
    drainer = Drainer(engine, LazyModel(settings), settings, "worker")
    thread = threading.Thread(target=drainer.poll, args=(stop,))
    with serve() as client:
        thread.start()
        try:
            yield f"{client.base_url}/openai/v1"
        finally:
            stop.set()
            thread.join(60)
    assert not thread.is_alive()


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


def batch_file(model: str) -> tuple[str, bytes]:
    body = {"model": model, "messages": QUESTION}
    line = {"custom_id": "only", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return "requests.jsonl", json.dumps(line).encode()


def label_of(output: str) -> str:
    """Return the label in the only line of a batch's output file."""
    label: str = json.loads(output)["response"]["body"]["choices"][0]["message"]["content"]
    return label


def test_the_story_with_the_synchronous_client(base_url: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)
    file = client.files.create(file=("tickets.jsonl", TRAINING), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(training_file=file.id, model="gpt-3.5-turbo", hyperparameters={"n_epochs": 1})
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.fine_tuned_model is not None
    events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1)]
    assert events[-1].startswith("Created fine-tuning job")
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=QUESTION, logprobs=True)
    label, logprobs = answer.choices[0].message.content, answer.choices[0].logprobs
    assert label in LABELS
    assert logprobs is not None
    assert [entry.token for entry in logprobs.content or []] == [label]
    stream = client.chat.completions.create(model=job.fine_tuned_model, messages=QUESTION, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == label
    assert len(client.embeddings.create(model=job.fine_tuned_model, input="hello").data[0].embedding) == 32
    requests = client.files.create(file=batch_file(job.fine_tuned_model), purpose="batch")
    batch = client.batches.create(input_file_id=requests.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status == "in_progress":
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert batch.output_file_id is not None
    assert label_of(client.files.content(batch.output_file_id).text) == label
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(job.id)


def test_the_story_with_the_asynchronous_client(base_url: str) -> None:
    async def story() -> None:
        client = openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0)
        file = await client.files.create(file=("tickets.jsonl", TRAINING), purpose="fine-tune")
        job = await client.fine_tuning.jobs.create(
            training_file=file.id, model="gpt-3.5-turbo", hyperparameters={"n_epochs": 1}
        )
        while job.status not in ("succeeded", "failed", "cancelled"):
            await asyncio.sleep(0.1)
            job = await client.fine_tuning.jobs.retrieve(job.id)
        assert job.fine_tuned_model is not None
        stream = await client.chat.completions.create(model=job.fine_tuned_model, messages=QUESTION, stream=True)
        label = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert label in LABELS
        embedded = await client.embeddings.create(model=job.fine_tuned_model, input="hello")
        assert len(embedded.data[0].embedding) == 32
        requests = await client.files.create(file=batch_file(job.fine_tuned_model), purpose="batch")
        batch = await client.batches.create(
            input_file_id=requests.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        while batch.status == "in_progress":
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
        assert batch.output_file_id is not None
        assert label_of((await client.files.content(batch.output_file_id)).text) == label
        events = [event.message async for event in client.fine_tuning.jobs.list_events(job.id, limit=1)]
        assert events[-1].startswith("Created fine-tuning job")
        assert (await client.models.delete(job.fine_tuned_model)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.fine_tuning.jobs.retrieve(job.id)
        await client.close()

    asyncio.run(story())


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
