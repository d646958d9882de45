"""Batches through OpenAI's client: files of requests, their responses, and what cannot be a batch."""

import json
import time
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import Engine, func, select

from app.db.file_models import BatchRequestRow
from app.db.session import transaction
from app.openai.batches import requests, service
from app.openai.files import repository as files
from tests.app.openai.test_training_data import chat, jsonl
from tests.support.service import WorkOff, adaptation_body

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.fixture
def model(client: httpx.Client, work_off: WorkOff, openai_client: openai.OpenAI) -> str:
    client.post("/v1/adaptations", json=adaptation_body())
    work_off()
    [_, model] = openai_client.models.list()
    return model.id


def request(number: int, body: dict[str, Any], url: str = CHAT, **changes: Any) -> dict[str, Any]:
    return {"custom_id": f"request-{number}", "method": "POST", "url": url, "body": body} | changes


def question(model: str, text: str = "i was charged twice", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **options}


def upload(client: openai.OpenAI, *lines: dict[str, Any]) -> Any:
    return client.files.create(file=("requests.jsonl", jsonl(*lines)), purpose="batch")


def create(client: openai.OpenAI, endpoint: Any, *lines: dict[str, Any], **options: Any) -> Any:
    file = upload(client, *lines)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def ended(client: openai.OpenAI, batch: Any) -> Any:
    deadline = time.monotonic() + 60
    while batch.status in ("in_progress", "cancelling"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def responses(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """Return the lines of a result file by their custom id."""
    assert file_id is not None
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    return {line["custom_id"]: line for line in lines}


def test_a_batch_answers_as_its_endpoint_does(
    openai_client: openai.OpenAI, model: str, service_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 1000)
    texts = [f"login screen is broken {number}" for number in range(40)]
    lines = [request(number, question(model, text, logprobs=True)) for number, text in enumerate(texts)]
    batch = create(openai_client, CHAT, *lines, metadata={"of": "test"})
    assert (batch.status, batch.metadata, batch.request_counts.total) == ("in_progress", {"of": "test"}, 40)
    batch = ended(openai_client, batch)
    assert (batch.status, batch.request_counts.completed, batch.error_file_id) == ("completed", 40, None)
    assert batch.created_at <= batch.completed_at < batch.expires_at
    answers = responses(openai_client, batch.output_file_id)
    assert list(answers) == [line["custom_id"] for line in lines]
    line = answers["request-7"]
    assert (line["response"]["status_code"], line["error"]) == (200, None)
    single: Any = openai_client.chat.completions.create(**question(model, texts[7], logprobs=True))
    [choice] = line["response"]["body"]["choices"]
    assert choice["message"]["content"] == single.choices[0].message.content
    expected = single.choices[0].logprobs.content[0].logprob
    assert choice["logprobs"]["content"][0]["logprob"] == pytest.approx(expected, abs=1e-3)
    output = openai_client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    with transaction(service_engine) as session:
        rows = select(func.count()).where(BatchRequestRow.batch_id == batch.id)
        assert session.execute(rows).scalar_one() == 0


def test_a_request_with_an_error_fails_alone(openai_client: openai.OpenAI, model: str) -> None:
    lines = [
        request(0, question(model)),
        request(1, question("ft:a:b:c:" + "0" * 24)),
        request(2, question(model, n=0)),
        request(3, question(model, stream=True)),
        request(4, question(model, tools=[{"type": "function"}])),
    ]
    batch = ended(openai_client, create(openai_client, CHAT, *lines))
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 5, 1, 4)
    assert list(responses(openai_client, batch.output_file_id)) == ["request-0"]
    errors = {
        name: (line["response"]["status_code"], line["response"]["body"]["error"]["param"])
        for name, line in responses(openai_client, batch.error_file_id).items()
    }
    expected = {"request-1": (404, "model"), "request-2": (400, "n"), "request-3": (400, "stream")}
    assert errors == expected | {"request-4": (400, "tools")}


@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS])
def test_completions_and_embeddings_are_batched_too(openai_client: openai.OpenAI, model: str, endpoint: str) -> None:
    body = {"model": model} | ({"prompt": "hello"} if endpoint == COMPLETIONS else {"input": "hello"})
    batch = ended(openai_client, create(openai_client, endpoint, request(0, body, endpoint)))
    [line] = responses(openai_client, batch.output_file_id).values()
    if endpoint == COMPLETIONS:
        assert line["response"]["body"]["choices"][0]["text"] in {"billing", "login"}
    else:
        assert len(line["response"]["body"]["data"][0]["embedding"]) == 32


def test_batches_are_listed_newest_first(openai_client: openai.OpenAI) -> None:
    batches = [create(openai_client, CHAT, request(0, question("gpt-4o"))) for _ in range(3)]
    assert [batch.id for batch in openai_client.batches.list(limit=2)] == [batch.id for batch in reversed(batches)]


def test_a_finished_batch_cannot_be_cancelled(openai_client: openai.OpenAI, model: str) -> None:
    batch = ended(openai_client, create(openai_client, CHAT, request(0, question(model))))
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.batches.cancel(batch.id)
    assert raised.value.code == "batch_finished"
    assert openai_client.batches.retrieve(batch.id).output_file_id == batch.output_file_id


LINE = request(0, {})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "the file is empty"),
        ([LINE, LINE], "line 2, custom_id: is the same as on line 1"),
        ([LINE, request(1, {}, EMBEDDINGS)], "line 2, url: is /v1/embeddings, but the lines before have"),
        ([request(0, {}, "/v1/images")], "line 1, url"),
        ([LINE | {"method": "GET"}], "line 1, method"),
        ([LINE | {"body": []}], "line 1, body"),
        ([{"messages": []}], "line 1, custom_id"),
    ],
)
def test_a_file_that_is_no_batch_names_line_and_field(
    openai_client: openai.OpenAI, lines: list[dict[str, Any]], words: str
) -> None:
    file = upload(openai_client, *lines)
    assert file.status == "error"
    assert words in file.status_details
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert words in raised.value.message


def test_a_batch_of_too_many_requests_names_the_first_line_too_many(
    openai_client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_REQUESTS", 2)
    file = upload(openai_client, *(request(number, {}) for number in range(3)))
    assert file.status_details == "line 3: a batch has at most 2 requests: split the file"


def test_what_is_no_batch_is_named(openai_client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: type[openai.APIStatusError], param: str | None, **changes: Any) -> openai.APIStatusError:
        options: Any = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | changes
        with pytest.raises(error) as raised:
            openai_client.batches.create(**options)
        assert raised.value.param == param
        return raised.value

    file = upload(openai_client, LINE)
    fails(openai.BadRequestError, "endpoint", endpoint=EMBEDDINGS)
    fails(openai.BadRequestError, "endpoint", endpoint="/v1/responses")
    fails(openai.BadRequestError, "completion_window", completion_window="1h")
    fails(openai.NotFoundError, "input_file_id", input_file_id="file-1")
    training = openai_client.files.create(file=("t.jsonl", chat("a", "b")), purpose="fine-tune")
    fails(openai.BadRequestError, "input_file_id", input_file_id=training.id)
    with pytest.raises(openai.BadRequestError, match="purpose 'fine-tune'"):
        openai_client.fine_tuning.jobs.create(model="gpt-4o", training_file=file.id)
    monkeypatch.setattr(service, "MAX_OPEN", 0)
    error = fails(openai.RateLimitError, None)
    assert error.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.NotFoundError):
        openai_client.batches.retrieve("batch_1")
