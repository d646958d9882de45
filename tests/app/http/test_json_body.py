"""JSON bodies: any valid value is parsed, and a hostile one is rejected before the parser makes objects of it."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import AppError
from app.http.json_body import parse_json
from tests.support.service import error_of

VALUES = st.recursive(
    st.text() | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"inputs": [[' + b"[]," * 1_000_000 + b"[]]]}", 422, "too_many_values"),
        (b'{"inputs": [' + b'{"":[]},' * 1_000_000 + b"{}]}", 422, "too_many_values"),
        (b'{"inputs": ["a"], "version": {' + b'"":0,' * 1_000_000 + b'"":0}}', 422, "too_many_values"),
        (('{"inputs": [["\u0122"' + ",[]" * 200_000 + "]]}").encode("utf-16-le"), 422, "too_many_values"),
        (b'{"inputs": [' + b'"," ' * 1_000_000, 422, "too_many_values"),
        (b'{"inputs": [' + b'"",' * 1_000_000 + b'""]}', 422, "too_many_values"),
        (b'{"inputs": ' + b"[" * 33 + b"]" * 33 + b"}", 400, "invalid_json"),
        (b'{"inputs": ' + b"[" * 50_000 + b"]" * 4_000_000, 400, "invalid_json"),
        (b'{"inputs": ' + b'{"\\"":' * 33 + b'"\\"}', 400, "invalid_json"),
    ],
    ids=lambda content: repr(content)[:40],
)
def test_a_body_of_too_many_or_too_deep_values_is_rejected_before_it_is_parsed(
    client: httpx.Client, content: bytes, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[int] = []

    def loads(text: str) -> Any:
        received.append(len(text))
        return json.JSONDecoder().decode(text)

    monkeypatch.setattr("app.http.json_body.json.loads", loads)
    with pytest.raises(AppError) as caught:
        parse_json(content, 10_000)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert received == []
    monkeypatch.undo()
    response = client.post("/v1/tasks/tsk_a/predict", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (status, code)


@given(VALUES)
def test_a_parsed_body_equals_the_json_value_in_any_encoding(value: Any) -> None:
    text = json.dumps({"value": value, "brackets": '[{,"\\' * 200}, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"):
        assert parse_json(text.encode(encoding), 100) == json.loads(text)
