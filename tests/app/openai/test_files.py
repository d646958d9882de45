"""Files, through OpenAI's client."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.app.openai.test_training_data import chat
from tests.support.service import Serve

CHAT = b"".join(chat("refund my money", "billing") + b"\n" for _ in range(2))


def upload(client: openai.OpenAI, content: bytes = CHAT, **options: Any) -> Any:
    return client.files.create(file=("tickets.jsonl", content), purpose="fine-tune", **options)


def test_a_file_is_stored_and_returned_as_it_was_sent(openai_client: openai.OpenAI) -> None:
    created = upload(openai_client)
    assert (created.object, created.bytes, created.filename) == ("file", len(CHAT), "tickets.jsonl")
    assert (created.purpose, created.expires_at, created.status_details) == ("fine-tune", None, None)
    assert openai_client.files.wait_for_processing(created.id).status == "processed"
    assert openai_client.files.retrieve(created.id) == created
    assert openai_client.files.content(created.id).read() == CHAT


def test_a_file_that_cannot_be_used_says_where_and_why(openai_client: openai.OpenAI) -> None:
    created = upload(openai_client, CHAT + b'{"messages": []}\n')
    waited = openai_client.files.wait_for_processing(created.id)
    assert waited.status == "error"
    assert waited.status_details is not None
    assert waited.status_details.startswith("line 3, messages: ")


def test_too_many_examples_are_named_by_the_first_line_too_many(serve: Serve) -> None:
    with serve(max_examples=3) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}/openai/v1", api_key="any", max_retries=0)
        assert upload(client, CHAT + CHAT).status_details == "line 4: the file has more than 3 examples: send fewer"


def test_a_deleted_file_does_not_exist(openai_client: openai.OpenAI) -> None:
    created = upload(openai_client)
    assert openai_client.files.delete(created.id).deleted
    for request in (openai_client.files.retrieve, openai_client.files.content, openai_client.files.delete):
        with pytest.raises(openai.NotFoundError) as raised:
            request(created.id)
        assert (raised.value.code, raised.value.param) == ("file_not_found", "file_id")
        assert raised.value.request_id


def test_the_pages_of_a_list_have_every_file_once(openai_client: openai.OpenAI) -> None:
    ids = [upload(openai_client).id for _ in range(5)]
    page = openai_client.files.list(limit=2)
    assert page.has_more
    assert [file.id for file in page] == ids[::-1]
    assert [file.id for file in openai_client.files.list(order="asc", limit=2)] == ids
    assert [file.id for file in openai_client.files.list(purpose="fine-tune", after=ids[1])] == [ids[0]]


def test_a_file_expires(openai_client: openai.OpenAI) -> None:
    created = upload(openai_client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert created.expires_at == created.created_at + 3600


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"purpose": "fine-tune", "expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after[seconds]"),
        ({"purpose": "fine-tune", "extra_body": {"colour": "red"}}, None),
    ],
)
def test_a_wrong_part_is_rejected(openai_client: openai.OpenAI, options: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.files.create(file=("tickets.jsonl", CHAT), **options)
    assert (raised.value.type, raised.value.param) == ("invalid_request_error", param)


def test_a_file_needs_a_name(client: httpx.Client) -> None:
    form = {"purpose": (None, "fine-tune"), "file": ("", CHAT)}
    response = client.post("/openai/v1/files", files=form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "file")
    assert "with a file name" in response.json()["error"]["message"]


@pytest.mark.parametrize("options", [{}, {"json": {}}, {"data": {"purpose": "fine-tune"}}])
def test_a_body_that_is_no_form_is_rejected(client: httpx.Client, options: dict[str, Any]) -> None:
    response = client.post("/openai/v1/files", **options)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_form")


def test_another_tenants_files_do_not_exist(new_openai: Callable[..., openai.OpenAI]) -> None:
    owner, other = new_openai(), new_openai()
    file_id = upload(owner).id
    assert list(other.files.list()) == []
    for request in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            request(file_id)
    with pytest.raises(openai.NotFoundError):
        other.files.list(after=file_id)
    assert owner.files.content(file_id).read() == CHAT


def test_a_tenant_has_a_limit_of_files_and_of_bytes(serve: Serve) -> None:
    with serve(max_files=2, max_files_bytes=5 * len(CHAT)) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}/openai/v1", api_key="any", max_retries=5)
        first = upload(client, 4 * CHAT)
        assert upload(client).status == "processed"
        # The client would try a 429 again; the header says that this would be in vain.
        with pytest.raises(openai.RateLimitError) as raised:
            upload(client)
        assert raised.value.response.headers["x-should-retry"] == "false"
        client.files.delete(first.id)
        with pytest.raises(openai.RateLimitError):
            upload(client, 5 * CHAT)
        assert json.loads(raised.value.response.content)["error"]["code"] == "too_many_files"
