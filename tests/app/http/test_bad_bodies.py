"""Invalid bodies: a clear error that quotes nothing, nothing half-written, and the service goes on."""

import gc
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.http.json_body import parse_json
from app.logs import JsonFormatter
from tests.support.service import EXAMPLES, SECRET, adaptation_body, error_of

pytestmark = pytest.mark.usefixtures("nothing_half_written")


def _examples(**changes: object) -> list[dict[str, object]]:
    return [{**EXAMPLES[0], **changes}, *EXAMPLES[1:]]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"examples": []}, "examples"),
        ({"examples": None}, "examples"),
        ({"examples": {}}, "examples"),
        ({"examples": [1]}, "examples[0]"),
        ({"examples": [{"input": "x"}]}, "examples[0].output"),
        ({"examples": _examples(output=1)}, "examples[0].output"),
        ({"examples": _examples(output=True)}, "examples[0].output"),
        ({"examples": _examples(output=None)}, "examples[0].output"),
        ({"examples": _examples(input=["x"])}, "examples[0].input"),
        ({"examples": _examples(input="")}, "examples[0].input"),
        ({"examples": _examples(input=" \n\t")}, "examples[0].input"),
        ({"examples": _examples(input="\u200b\ufeff \u200e")}, "examples[0].input"),
        ({"examples": _examples(output="\u2060")}, "examples[0].output"),
        ({"examples": _examples(input="\x07")}, "examples[0].input"),
        ({"examples": _examples(input="a\0b")}, "examples[0].input"),
        ({"examples": _examples(input="\ud800")}, "examples[0].input"),
        ({"examples": _examples(output="\udfff")}, "examples[0].output"),
        ({"examples": _examples(more=1)}, "examples[0].more"),
        ({"examples": _examples(output="x" * 10_001)}, "examples[0].output"),
        ({"examples": EXAMPLES[:4]}, "examples"),
        ({"examples": [*EXAMPLES, {"input": "x", "output": "rare"}], "kind": "classification"}, "examples[8].output"),
        ({"examples": EXAMPLES * 1251}, "examples"),
        ({"examples": [{"input": "x", "output": str(n // 2)} for n in range(402)]}, "examples[400].output"),
        ({"validation_examples": [{"input": "x", "output": "unseen"}]}, "validation_examples[0].output"),
        ({"kind": "regression"}, "kind"),
        ({"kind": "text2text"}, "kind"),
        (
            {"kind": "text2text", "examples": _examples(output="billing ")},
            "kind",
        ),  # texts may differ little
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "\0"}, "name"),
        ({"name": "\u200b"}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "\x1b[31mred"}, "name"),
        ({"name": "two\u2028lines"}, "name"),
        ({"metadata": {"a\tb": "x"}}, "metadata"),
        ({"name": "\ud83d"}, "name"),
        ({"name": 7}, "name"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "\0"}}, "metadata.a"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"subspace": "\0"}, "subspace"),
        ({"hyperparameters": {"steps": -1}}, "hyperparameters.steps"),
        ({"hyperparameters": {"steps": 1.5}}, "hyperparameters.steps"),
        ({"hyperparameters": {"steps": True}}, "hyperparameters.steps"),
        ({"hyperparameters": {"steps": 10**400}}, "hyperparameters.steps"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "hyperparameters.learning_rate"),
        ({"hyperparameters": {"learning_rate": float("inf")}}, "hyperparameters.learning_rate"),
        ({"hyperparameters": {"learning_rate": "0.1"}}, "hyperparameters.learning_rate"),
        ({"hyperparameters": {"seed": -1}}, "hyperparameters.seed"),
        ({"hyperparameters": {"seed": "random"}}, "hyperparameters.seed"),
        ({"hyperparameters": {"momentum": 1}}, "hyperparameters.momentum"),
        ({"unknown": 1}, "unknown"),
        ({"an unknown name, made up \ud800": 1}, None),
    ],
)
def test_an_invalid_field_is_named(client: httpx.Client, changes: dict[str, Any], param: str | None) -> None:
    content = json.dumps(adaptation_body(**changes))
    response = client.post("/v1/adaptations", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    error = error_of(response)
    assert (error["param"], error["type"]) == (param, "validation_error")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": []}, "has 0 entries; at least 1 are required"),
        ({"examples": [{"input": "x"}]}, "this field is required"),
        ({"examples": {}}, "must be a JSON list"),
        ({"examples": [1]}, "must be a JSON object"),
        ({"name": "x" * 201}, "has 201 characters; at most 200 are allowed"),
        ({"name": 7}, "must be text, in quotes"),
        ({"name": " "}, "must contain at least one visible character"),
        ({"name": "a\nb"}, "contains a line break or another control character, which a name must not contain"),
        ({"task_id": "tsk_1"}, "the body needs either name, for a new task, or task_id, for a new version of a task"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "has 17 entries; at most 16 are allowed"),
        ({str(n): "x" for n in range(31)}, "the body has 34 fields; at most 32 are allowed"),
        ({"unknown": 1}, "unknown field"),
        ({"kind": "regression"}, "must be 'classification', 'multilabel' or 'text2text'"),
        ({"hyperparameters": {"steps": -1}}, "must be at least 0"),
        ({"hyperparameters": {"steps": 10_001}}, "must be at most 10000"),
        ({"hyperparameters": {"steps": "5"}}, "must be a whole number"),
        ({"hyperparameters": {"seed": "random"}}, "must be a whole number, or must be 'auto'"),
        ({"hyperparameters": {"learning_rate": "0.1"}}, "must be a number"),
        ({"hyperparameters": {"learning_rate": 0}}, "must be more than 0"),
        (
            {"hyperparameters": {"learning_rate": float("nan")}},
            "must be a finite number: JSON has no NaN or Infinity, and no numbers beyond 1e308",
        ),
    ],
)
def test_messages_describe_json_values_and_not_python_types(
    client: httpx.Client, changes: dict[str, Any], message: str
) -> None:
    content = json.dumps(adaptation_body(**changes))
    response = client.post("/v1/adaptations", content=content, headers={"content-type": "application/json"})
    assert error_of(response)["message"] == message


def test_an_empty_or_malformed_body_gets_a_precise_message(client: httpx.Client) -> None:
    as_json = {"content-type": "application/json"}
    for content, headers, message in (
        (b"", as_json, "the body is empty"),
        (b"", {}, "the body is empty"),
        (b"null", as_json, "the body must be a JSON object"),
        (b'{"name": x}', as_json, "not valid JSON: at line 1, column 10: expecting value"),
        (b'{"name": "x",\n\n  "examples": [}', as_json, "not valid JSON: at line 3, column 16: expecting value"),
        (b'{"name": "\xc3\x28"}', as_json, "it is not UTF-8, from byte 11 on"),
        (b"[" * 100_000, as_json, "it is nested too deeply"),
        (b"1" * 10_000, as_json, "it has a number with too many digits"),
        (
            b'{"name": "\xed\xa0\x80", "examples": [{"input": "x", "output": "y"}]}',
            as_json,
            "contains a lone surrogate",
        ),
    ):
        assert message in error_of(client.post("/v1/adaptations", content=content, headers=headers))["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\xfa",
        b'{"name": "\xc3\x28"}',
        b'{"name": "\xed\xa0\x80"}',
        b'{"name": "x", "examples": 1e999}',
        b'{"name": NaN}',
        b'{"hyperparameters": {"learning_rate": 1e999}}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"examples":' + b"[" * 100_000,
        b"1" * 10_000,
        b'{"name": "x", "name": "x", ' + b",".join(b'"k%d": 1' % n for n in range(100_000)) + b"}",
        b'{"name": "x", "examples": [' + b"1," * 1_000_000 + b"1]}",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_malformed_body_is_rejected(client: httpx.Client, content: bytes) -> None:
    for path in ("/v1/adaptations", "/v1/predict", "/v1/tasks/tsk_any/predict"):
        response = client.post(path, content=content, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422)
        error_of(response)
        assert len(response.content) < 1000


def test_a_body_of_another_content_type_is_rejected(client: httpx.Client) -> None:
    for headers in ({}, {"content-type": "text/csv"}):
        response = client.post("/v1/adaptations", content=b"input,output\n", headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (400, "not_json")


def test_the_garbage_collector_does_not_slow_down_the_parsing_of_a_hostile_body(client: httpx.Client) -> None:
    lists = 75_000
    content = b'{"name": "tickets", "examples": [' + b"[]," * lists + b"[]]}"
    before = sum(generation["collections"] for generation in gc.get_stats())
    response = client.post("/v1/adaptations", content=content, headers={"content-type": "application/json"})
    collections = sum(generation["collections"] for generation in gc.get_stats()) - before
    assert (response.status_code, error_of(response)["param"]) == (422, "examples[0]")
    assert collections < lists / gc.get_threshold()[0] / 4
    assert gc.isenabled()


def test_a_list_that_is_too_long_is_cut_before_it_is_validated(client: httpx.Client) -> None:
    assert parse_json(b'{"inputs": ["a", "b", "c", "d"], "name": "abcd"}', 2) == {
        "inputs": ["a", "b", "c"],
        "name": "abcd",
    }
    assert parse_json(b"[1, 2, 3, 4]", 2) == [1, 2, 3, 4]
    many = {"inputs": ["a"] * 150_000}
    response = client.post("/v1/tasks/tsk_unknown/predict", json=many)
    assert (response.status_code, error_of(response)["code"]) == (422, "too_many_inputs")
    many = {"name": "tickets", "examples": EXAMPLES * 6_000}
    response = client.post("/v1/adaptations", json=many)
    assert (response.status_code, error_of(response)["code"]) == (422, "too_many_examples")


def test_a_large_body_is_rejected_before_it_is_read(client: httpx.Client) -> None:
    response = client.post("/v1/adaptations", content=b" " * 50_000_000, headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


def test_a_large_body_of_undeclared_length_is_cut_off(client: httpx.Client) -> None:
    def chunks() -> Any:
        for _ in range(50):
            yield b" " * 1_000_000

    response = client.post("/v1/adaptations", content=chunks(), headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


def test_neither_errors_nor_the_log_quote_the_request(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[dict[str, Any]] = [
        adaptation_body(examples=_examples(input=SECRET, more=SECRET)),
        adaptation_body(examples=_examples(input=SECRET + "\0")),
        adaptation_body(examples=_examples(input=SECRET + "\ud800")),
        adaptation_body(examples=[{"input": SECRET, "output": SECRET}] * 4),
        adaptation_body(kind=SECRET),
        adaptation_body(**{SECRET: SECRET}),
        adaptation_body(hyperparameters={"seed": SECRET, "steps": SECRET}),
        adaptation_body(subspace=SECRET),
    ]
    with caplog.at_level(logging.DEBUG):
        for body in bodies:
            content = json.dumps(body)
            response = client.post("/v1/adaptations", content=content, headers={"content-type": "application/json"})
            assert response.status_code in (404, 422)
            assert SECRET not in response.text
    logged = [record for record in caplog.records if record.name.startswith("app")]
    assert SECRET not in "".join(record.getMessage() + JsonFormatter().format(record) for record in logged)


def test_deleting_while_creating_leaves_nothing_broken(client: httpx.Client) -> None:
    def create_and_delete(_: int) -> tuple[int, int]:
        created = client.post("/v1/adaptations", json=adaptation_body())
        return created.status_code, client.delete(f"/v1/tasks/{created.json()['task_id']}").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(create_and_delete, range(40))) == {(202, 200)}
