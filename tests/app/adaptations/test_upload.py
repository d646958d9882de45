"""Datasets uploaded as files: equivalent to JSON bodies, with errors that name file and line."""

import csv
import gzip
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from app.db.models import Adaptation, Dataset
from app.db.session import transaction
from tests.support.service import EXAMPLES, SECRET, adaptation_body, error_of

BOMB = gzip.compress(b"text,label\n" + b"x,y\n" * 5_000_000, mtime=0)
JSONL = "".join(json.dumps(example) + "\n" for example in EXAMPLES)
FIELDS = {"name": "tickets", "hyperparameters": '{"steps": 1, "batch_size": 4}'}
File = tuple[str, str | bytes] | tuple[str, str | bytes, str]


def written(rows: list[dict[str, str]], columns: tuple[str, str] = ("text", "label"), delimiter: str = ",") -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([columns, *((row["input"], row["output"]) for row in rows)])
    return file.getvalue()


def send(
    client: httpx.Client,
    file: File,
    fields: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    **parts: File,
) -> httpx.Response:
    return client.post(
        "/v1/adaptations", files={"file": file, **parts}, data=FIELDS if fields is None else fields, headers=headers
    )


def stored(engine: Engine) -> list[tuple[list[dict[str, str]], list[dict[str, str]] | None]]:
    with transaction(engine) as session:
        rows = session.scalars(select(Dataset))
        return [(row.examples, row.validation_examples) for row in rows]


@pytest.fixture
def nothing_is_stored(service_engine: Engine) -> Iterator[None]:
    yield
    with transaction(service_engine) as session:
        assert session.scalars(select(Adaptation)).all() == []
    assert stored(service_engine) == []


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        (("tickets.jsonl", JSONL), {}),
        (("tickets.NDJSON", JSONL.replace("\n", "\r\n\r\n")), {}),
        (("tickets.csv", written(EXAMPLES).encode("utf-8-sig")), {}),
        (("tickets.tsv", written(EXAMPLES, delimiter="\t").encode("utf-16")), {}),
        (("tickets", written(EXAMPLES), "text/csv; charset=utf-8"), {}),
        (("tickets.txt", written(EXAMPLES)), {"format": "csv"}),
        (("tickets", JSONL), {}),
        (("tickets.xlsx", JSONL), {}),
        (("tickets.csv", written(EXAMPLES, delimiter=";")), {}),
        (("tickets.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)), {}),
        (("tickets.csv", json.dumps({"examples": EXAMPLES})), {}),
        (("tickets.csv", written(EXAMPLES).encode("utf-16-be"), "text/csv; charset=utf-16-be"), {}),
        (("tickets.csv", written(EXAMPLES).encode("utf-16-be"), "text/csv"), {"charset": "utf-16-be"}),
        (("tickets.jsonl", written(EXAMPLES)), {"format": "csv"}),
        (("tickets.csv", written(EXAMPLES, ("asked", "team"))), {"input_column": "asked", "output_column": "team"}),
    ],
)
def test_a_file_equals_the_same_examples_in_json(
    client: httpx.Client, service_engine: Engine, file: File, fields: dict[str, str]
) -> None:
    headers = {"Idempotency-Key": "tickets-1"}
    sent = send(client, file, FIELDS | {"metadata": '{"source": "mail"}'} | fields, headers)
    assert sent.status_code == 202
    in_json = client.post("/v1/adaptations", json=adaptation_body(metadata={"source": "mail"}), headers=headers)
    assert in_json.json() == sent.json()
    assert client.get(sent.headers["location"]).json() == sent.json()
    assert stored(service_engine) == [(EXAMPLES, None)]
    other = send(client, ("tickets.csv", written(EXAMPLES[::-1])), headers=headers)
    assert (other.status_code, error_of(other)["code"]) == (409, "idempotency_key_reused")


def test_a_form_accepts_every_field_of_the_json_body(client: httpx.Client, service_engine: Engine) -> None:
    first = send(client, ("tickets.jsonl", JSONL)).json()
    subspace = client.get("/v1/subspaces").json()["data"][0]["id"]
    fields = {
        "task_id": first["task_id"],
        "kind": "classification",
        "subspace": subspace,
        "hyperparameters": '{"steps": 7, "seed": 3}',
        "metadata": "{}",
    }
    response = send(client, ("t.jsonl", JSONL), fields, validation_file=("v.csv", written(EXAMPLES[3:5])))
    assert response.status_code == 202
    second = response.json()
    assert (second["task_id"], second["task_version"]) == (first["task_id"], 2)
    assert (second["kind"], second["subspace_id"]) == ("classification", subspace)
    assert (second["hyperparameters"]["steps"], second["hyperparameters"]["seed"]) == (7, 3)
    assert (EXAMPLES, EXAMPLES[3:5]) in stored(service_engine)


def test_quotes_and_line_breaks_are_preserved(client: httpx.Client, service_engine: Engine) -> None:
    examples = [{"input": row["input"] + ' "\r\n,\n é😀', "output": row["output"]} for row in EXAMPLES]
    assert send(client, ("tickets.csv", written(examples))).status_code == 202
    assert stored(service_engine) == [(examples, None)]


def test_a_file_larger_than_memory_buffers_is_accepted(client: httpx.Client, service_engine: Engine) -> None:
    examples = [{"input": f"{number} " + "x" * 4000, "output": "ab"[number % 2]} for number in range(1000)]
    assert send(client, ("big.csv", written(examples))).status_code == 202
    assert stored(service_engine) == [(examples, None)]


_LINES = JSONL.splitlines(keepends=True)


def changed(index: int, line: str) -> str:
    return "".join([*_LINES[:index], line + "\n", *_LINES[index + 1 :]])


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("file", "param", "code", "words"),
    [
        (("a.jsonl", ""), "file", "invalid_dataset_file", "no rows"),
        (("a.jsonl", changed(2, "{")), "file:3", "invalid_dataset_file", "not JSON"),
        (("a.jsonl", changed(2, '{"input": {}, "output": "x"}')), "file:3.input", "invalid_dataset_file", "an object"),
        (("a.jsonl", changed(2, '{"input": "\\ud800", "output": "x"}')), "file:3.input", "invalid_dataset_file", ""),
        (("a.csv", written(EXAMPLES) + "x\n"), "file:10.output", "invalid_dataset_file", "no label (line 10)"),
        (("a.csv", written(EXAMPLES, ("a", "b"))), "file", "invalid_dataset_file", "input_column"),
        (("a.csv", b"text,label\n\xff,x"), "file:2", "invalid_dataset_file", "byte 0xff"),
        (("a.txt", "only some words\n"), "file", "invalid_dataset_file", "send one of jsonl, "),
        (("a.csv", BOMB), "file", "invalid_dataset_file", "more than"),
        # Errors that JSON bodies have too, with the line instead of the index.
        (
            ("a.jsonl", "\n\n" + changed(2, '{"input": " ", "output": "x"}')),
            "file:5.input",
            "invalid_dataset_file",
            "1 row has no text",
        ),
        (("a.csv", 'text,label\n"a\nb",x\n\n,y\n'), "file:5.input", "invalid_dataset_file", "no text"),
        (("a.csv", written(EXAMPLES) + "x," + "y" * 10_001), "file:10.output", "text_too_long", "at most 10000"),
        (("a.csv", written(EXAMPLES * 1251)), "file", "too_many_examples", "10000"),
        (("a.csv", written(EXAMPLES[:4])), "file", "invalid_dataset", "same output"),
        (
            ("a.csv", written(EXAMPLES) + "x,a\ny,b\n"),
            "file:10.output",
            "invalid_dataset",
            "'a' (file:10), 'b' (file:11)",
        ),
    ],
)
def test_errors_name_file_and_line(client: httpx.Client, file: File, param: str, code: str, words: str) -> None:
    response = send(client, file)
    assert response.status_code == 422
    error = error_of(response)
    assert (error["param"], error["code"], error["type"]) == (param, code, "validation_error")
    assert words in error["message"]


@pytest.mark.usefixtures("nothing_is_stored")
def test_errors_name_the_validation_file(client: httpx.Client) -> None:
    for row, place, code, words in (
        ("x,unseen", ":3.output", "invalid_dataset", "training"),
        ("x,", ":3.output", "invalid_dataset_file", "no label"),
        ("x", ":3.output", "invalid_dataset_file", "no label"),
    ):
        error = error_of(send(client, ("a.jsonl", JSONL), validation_file=("v.csv", f"text,label\nx,login\n{row}\n")))
        assert (error["param"], error["code"]) == ("validation_file" + place, code)
        assert words in error["message"]


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "name", "invalid_value"),
        ({"name": "x", "task_id": "tsk_1"}, "name", "invalid_value"),
        ({"name": ""}, "name", "invalid_value"),
        ({"name": "x" * 201}, "name", "invalid_value"),
        ({"name": "a\0"}, "name", "invalid_value"),
        ({"name": ["x", "y"]}, "name", "invalid_value"),
        ({"name": "x", "kind": "regression"}, "kind", "invalid_value"),
        ({"name": "x", "format": "xlsx"}, "format", "unknown_format"),
        ({"name": "x", "input_column": "none"}, "file", "invalid_dataset_file"),
        ({"name": "x", "input_column": "input", "output_column": "input"}, "file", "invalid_dataset_file"),
        ({"name": "x", "input_column": "output"}, "file", "invalid_dataset_file"),
        ({"name": "x", "hyperparameters": ""}, "hyperparameters", "invalid_json"),
        ({"name": "x", "hyperparameters": '{"steps": 1, "steps": 2}'}, "hyperparameters", "invalid_json"),
        ({"name": "x", "hyperparameters": '{"learning_rate": NaN}'}, "hyperparameters", "invalid_json"),
        ({"name": "x", "hyperparameters": "[" * 100_000}, "hyperparameters", "invalid_json"),
        ({"name": "x", "hyperparameters": "null"}, "hyperparameters", "invalid_value"),
        ({"name": "x", "hyperparameters": '{"steps": -1}'}, "hyperparameters.steps", "invalid_value"),
        ({"name": "x", "hyperparameters": '{"steps": 1e999}'}, "hyperparameters.steps", "invalid_value"),
        ({"name": "x", "hyperparameters": '{"momentum": 1}'}, "hyperparameters.momentum", "unknown_field"),
        ({"name": "x", "metadata": "text"}, "metadata", "invalid_json"),
        ({"name": "x", "metadata": '{"a": 1}'}, "metadata.a", "not_text"),
        ({"name": "x", "unknown": "1"}, "unknown", "unknown_field"),
        ({"name": "x", "examples": "[]"}, "examples", "unknown_field"),
        ({"name": "x", "validation_file": "text"}, "validation_file", "not_a_file"),
        ({"name": "x", "an unknown name, made up": "1"}, None, "unknown_field"),
    ],
)
def test_fields_are_validated_as_in_json(
    client: httpx.Client, fields: dict[str, Any], param: str | None, code: str
) -> None:
    response = send(client, ("a.jsonl", JSONL), fields)
    assert response.status_code == 422
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)
    assert "none" not in error["message"]


@pytest.mark.usefixtures("nothing_is_stored")
def test_missing_unknown_and_misplaced_parts_are_rejected(client: httpx.Client) -> None:
    for files, param, code in (
        ([("validation_file", ("a.jsonl", JSONL))], "file", "missing_field"),
        ([("file", (None, JSONL))], "file", "not_a_file"),
        ([("file", ("a.jsonl", JSONL)), ("kind", ("a.txt", "classification"))], "kind", "not_text"),
        ([("file", ("a.jsonl", JSONL)), ("file", ("b.jsonl", JSONL))], "file", "invalid_value"),
        ([("dataset", ("a.jsonl", JSONL))], "dataset", "unknown_field"),
    ):
        response = client.post("/v1/adaptations", files=files, data=FIELDS)
        assert (response.status_code, error_of(response)["param"], error_of(response)["code"]) == (422, param, code)


def part(content: bytes, disposition: bytes = b'; name="name"') -> bytes:
    return b"--b\r\nContent-Disposition: form-data" + disposition + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("parameters", "content"),
    [
        ("", part(b"x") + b"--b--\r\n"),
        ("; boundary=" + "b" * 1000, b"x"),
        ("; boundary=b", b"{}"),
        ("; boundary=b", part(b"x", b"") + b"--b--\r\n"),
        ("; boundary=b", b"--b\r\n" + b"x: y\r\n" * 10_000),
        ("; boundary=b", b"--b\r\nx: " + b"y" * 1_000_000),
        ("; boundary=b; charset=undefined", part(b"x") + b"--b--\r\n"),
        ("; boundary=b", part(b"x" * 300_000) + b"--b--\r\n"),
        ("; boundary=b", part(b"x") * 40 + b"--b--\r\n"),
        ("; boundary=b", part(b"x", b'; name="file"; filename="a"') * 3 + b"--b--\r\n"),
        ("; boundary=b", b""),
    ],
    ids=range(11),
)
def test_a_malformed_form_is_rejected(client: httpx.Client, parameters: str, content: bytes) -> None:
    headers = {"content-type": "multipart/form-data" + parameters}
    response = client.post("/v1/adaptations", content=content, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_form")
    assert len(response.content) < 1000


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_form_without_parts_is_rejected(client: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = client.post("/v1/adaptations", content=b"--b--\r\n", headers=headers)
    assert (response.status_code, error_of(response)["param"]) == (422, "file")


def test_a_form_without_its_last_boundary_is_rejected(client: httpx.Client, service_engine: Engine) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    rows = part(written(EXAMPLES).encode(), b'; name="file"; filename="a.csv"')
    whole = part(b"tickets") + rows + part(b'{"steps": 1, "batch_size": 4}', b'; name="hyperparameters"') + b"--b--"
    # Even if all received parts are complete: the missing ones may contain fields.
    for cut_off in (part(b"tickets") + rows, part(b"tickets") + rows + b"--b\r\n", whole[:-1], whole[:-2], whole[:-8]):
        response = client.post("/v1/adaptations", content=cut_off, headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_form")
        assert "cut off" in error_of(response)["message"]
    assert stored(service_engine) == []
    assert client.post("/v1/adaptations", content=whole, headers=headers).status_code == 202
    assert stored(service_engine) == [(EXAMPLES, None)]


@pytest.mark.usefixtures("nothing_is_stored")
def test_a_form_that_is_too_large_is_rejected(client: httpx.Client) -> None:
    response = send(client, ("a.csv", "text,label\n" + "x,y\n" * 5_000_000))
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")

    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\ntext,label\r\n'
        for _ in range(50):
            yield b"x,y\r\n" * 200_000

    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = client.post("/v1/adaptations", content=chunks(), headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


def test_a_form_is_not_read_for_an_unknown_caller(client: httpx.Client) -> None:
    for authorization in ("", "Bearer wrong"):
        headers = {"authorization": authorization, "content-type": "multipart/form-data"}
        response = client.post("/v1/adaptations", content=b"no form", headers=headers)
        assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error")


def test_other_content_types_methods_and_routes_reject_a_form(client: httpx.Client) -> None:
    response = client.post("/v1/adaptations", data=FIELDS)
    assert (response.status_code, error_of(response)["code"]) == (400, "not_json")
    response = client.put("/v1/adaptations", files={"file": ("a.jsonl", JSONL)})
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    response = client.post("/v1/predict", files={"file": ("a.jsonl", JSONL)})
    assert (response.status_code, error_of(response)["code"]) == (400, "not_json")


@pytest.mark.usefixtures("nothing_is_stored")
def test_neither_errors_nor_logs_quote_a_file(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[tuple[File, dict[str, str]]] = [
        (("a.jsonl", SECRET), FIELDS),
        (("a.jsonl", f'{{"input": "{SECRET}", "output": 1}}'), FIELDS),
        (("a.jsonl", f'{{"{SECRET}": "x", "{SECRET}": "y"}}'), FIELDS),
        (("a.csv", f"{SECRET},{SECRET} 2\nx,y\n"), FIELDS),
        (("a.csv", f'text,label\n"{SECRET}'), FIELDS),
        (("a.csv", "text,label\n" + f"{SECRET},{SECRET}\n" * 4), FIELDS),
        (("a.csv", f"text,label\n{SECRET},{SECRET}\nx,{SECRET} \n"), FIELDS),
        (("a.csv", f"text,label\n{SECRET},\n"), FIELDS),
        ((SECRET, f"text,label\n{SECRET},\n"), FIELDS),
        (("a.csv", written(EXAMPLES)), FIELDS | {"input_column": SECRET}),
        (("a.csv", written(EXAMPLES)), FIELDS | {"format": SECRET}),
        (("a.csv", written(EXAMPLES)), FIELDS | {"kind": SECRET}),
        (("a.csv", written(EXAMPLES)), FIELDS | {"metadata": SECRET}),
        (("a.csv", written(EXAMPLES)), FIELDS | {SECRET: SECRET}),
    ]
    with caplog.at_level(logging.DEBUG):
        for file, fields in sent:
            response = send(client, file, fields)
            assert response.status_code == 422
            assert SECRET not in response.text
    client_loggers = ("httpx", "httpcore")
    records = [record for record in caplog.records if not record.name.startswith(client_loggers)]
    assert SECRET not in "".join(record.getMessage() for record in records)


def test_openapi_describes_json_and_form(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/adaptations"]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json", "multipart/form-data"]
    form = content["multipart/form-data"]["schema"]
    assert form["properties"]["format"]["enum"] == ["jsonl", "ndjson", "json", "csv", "tsv"]
    in_json = document["components"]["schemas"]["AdaptationInput"]["properties"]
    in_form = {"file", "validation_file", "format", "charset", "input_column", "output_column", "label_separator"}
    assert set(form["properties"]) == in_form | (set(in_json) - {"examples", "validation_examples"})
    for name in set(form["properties"]) - in_form:
        assert form["properties"][name] == in_json[name]


def test_a_warning_names_the_lines_of_the_file(client: httpx.Client) -> None:
    noisy = [*EXAMPLES, EXAMPLES[2] | {"output": "login"}]
    [warning] = send(client, ("noisy.csv", written(noisy))).json()["warnings"]
    assert "different labels in file:10 and file:4:" in warning


def test_the_answer_says_how_each_file_was_read(client: httpx.Client) -> None:
    validation = ("v.jsonl", "".join(json.dumps(row | {"answer": "accept"}) + "\n" for row in PRODIGY))
    sent = send(client, ("a.csv", written(EXAMPLES, ("Text ", "LABEL"), ";")), validation_file=validation).json()
    source = sent["source"]["file"]
    assert (source["format"], source["delimiter"], source["rows"]) == ("csv", "semicolon", 8)
    assert source["columns"] == {"input": "Text", "output": "LABEL"}
    assert sent["source"]["validation_file"]["format"] == "jsonl (Prodigy)"
    assert client.get(f"/v1/adaptations/{sent['id']}").json()["source"] == sent["source"]
    assert client.post("/v1/adaptations", json=adaptation_body()).json()["source"] is None


PRODIGY = [{"text": row["input"], "label": row["output"]} for row in EXAMPLES[3:5]]


@pytest.mark.parametrize("form", [True, False])
def test_labels_in_several_spellings_are_one_label_with_a_warning(
    client: httpx.Client, service_engine: Engine, form: bool
) -> None:
    labels = ["Billing", "billing", "billing", "billing", "log\u00a0in", "log in", "log in", "log_in"]
    rows = [{"input": row["input"], "output": label} for row, label in zip(EXAMPLES, labels, strict=True)]
    sent = (
        send(client, ("a.csv", written(rows)))
        if form
        else client.post("/v1/adaptations", json=adaptation_body(examples=rows))
    )
    [warning] = sent.json()["warnings"]
    places = ("file:2", "file:6", "file:9") if form else ("examples[0]", "examples[4]", "examples[7]")
    assert (
        f"'Billing' ({places[0]}) as 'billing'; 'log\\xa0in' ({places[1]}), 'log_in' ({places[2]}) as 'log in'"
        in warning
    )
    [(stored_rows, _)] = stored(service_engine)
    assert [row["output"] for row in stored_rows] == ["billing"] * 4 + ["log in"] * 4
