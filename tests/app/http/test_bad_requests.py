"""Invalid headers, paths, methods and parameters: a clear error with the JSON error body."""

import json
import socket

import httpx
import pytest

from app.openai.dialect import PREFIX
from tests.support.service import SECRET, adaptation_body, error_of

pytestmark = pytest.mark.usefixtures("nothing_half_written")


@pytest.mark.parametrize("length", [b"99999999999999999999", b"-1", b"many"])
def test_a_wrong_content_length_is_rejected(client: httpx.Client, length: bytes) -> None:
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n{}")
        assert connection.recv(4096)[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 400")


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key", "Content-Type", "Last-Event-ID"])
def test_a_repeated_single_value_header_is_rejected(client: httpx.Client, name: str, same: bool) -> None:
    valid = {"Idempotency-Key": "one", "Content-Type": "application/json", "Last-Event-ID": "1", **client.headers}
    value = httpx.Headers(valid)[name]
    repeated = (name.upper(), value if same else value + "x")
    body = json.dumps(adaptation_body())
    for headers in ([*valid.items(), repeated], [repeated, *valid.items()]):
        response = client.post("/v1/adaptations", content=body, headers=headers)
        assert response.status_code == 400
        error = error_of(response)
        assert (error["code"], error["param"]) == ("duplicate_header", name.lower())
        assert error["message"] == "this header was sent 2 times: send it once"


def test_a_list_header_may_be_repeated(client: httpx.Client) -> None:
    headers = [("Accept", "text/html"), ("Accept", "application/json"), ("X-Request-Id", "a"), ("X-Request-Id", "b")]
    assert client.get("/v1/tasks", headers=headers).status_code == 200


def test_two_content_lengths_are_rejected(client: httpx.Client) -> None:
    request = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n" + b"Content-Length: 2\r\n" * 2 + b"\r\n{}"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(request)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_unknown_paths_and_methods_get_the_json_error_body(client: httpx.Client) -> None:
    for method, path, status, code in (
        ("GET", "/", 404, "route_not_found"),
        ("GET", "/v1/nothing", 404, "route_not_found"),
        ("GET", "/v1/%00%ff", 404, "route_not_found"),
        ("PUT", "/v1/tasks", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/adaptations/", 404, "route_not_found"),
        ("POST", "/v1/adaptations/", 404, "route_not_found"),
    ):
        response = client.request(method, path)
        assert (response.status_code, error_of(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/tasks/tsk_1", {"GET", "PATCH", "DELETE"}),
        ("/v1/adaptations", {"GET", "POST"}),
        ("/v1/predict", {"POST"}),
        ("/openapi.json", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_gets_all_allowed_ones(client: httpx.Client, path: str, methods: set[str]) -> None:
    assert set(client.put(path).headers["allow"].split(", ")) == methods


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tasks/%00",
        "/v1/tasks/%00/vector",
        "/v1/tasks/" + "x" * 65,
        "/v1/adaptations/%00",
        "/v1/adaptations?after=%00",
        "/v1/adaptations?task_id=%00",
        "/v1/tasks?limit=0",
        "/v1/tasks?limit=101",
        "/v1/tasks?limit=99999999999999999999999",
        "/v1/tasks?limit=NaN",
        "/v1/tasks/tsk_a/vector?version=99999999999999999999",
        "/v1/adaptations/adp_a/events?after=-1",
    ],
)
def test_parameters_out_of_range_are_rejected(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 422
    error = error_of(response)
    assert error["param"]
    assert error["message"].startswith(("must ", "has ", "contains "))


def test_every_route_rejects_unknown_query_parameters(client: httpx.Client) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            response = client.request(method, path.replace("{", "").replace("}", ""), params={"stat": "queued"})
            assert response.status_code == (400 if path.startswith(PREFIX) else 422), (method, path)
            error = error_of(response)
            assert (error["param"], error["code"]) == ("stat", "unknown_parameter")
    form = client.post("/v1/adaptations?stat=queued", files={"file": ("rows.csv", "text,label")})
    assert (form.status_code, error_of(form)["code"]) == (422, "unknown_parameter")
    message = error_of(client.get("/v1/adaptations?stat=queued"))["message"]
    assert message == "unknown query parameter 'stat'; allowed: state, task_id, after, limit"
    invalid_name = error_of(client.get("/v1/tasks", params={f"{SECRET}!": "x"}))
    assert (invalid_name["param"], invalid_name["code"]) == (None, "unknown_parameter")
    assert SECRET not in invalid_name["message"]
    assert client.get("/v1/adaptations?state=queued&limit=1").status_code == 200


def test_ids_with_any_characters_are_unknown(client: httpx.Client) -> None:
    for path in ("/v1/tasks/%ED%A0%80", "/v1/tasks/%F0%9F%98%80", "/v1/tasks/'; DROP TABLE tasks; --"):
        assert client.get(path).status_code == 404


def test_a_safe_request_id_of_the_caller_is_kept(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    for unsafe in ("x" * 129, "a b", "<script>"):
        assert client.get("/healthz", headers={"x-request-id": unsafe}).headers["x-request-id"].startswith("req_")
    assert client.get("/v1/nothing").headers["x-request-id"].startswith("req_")


def test_every_endpoint_documents_its_errors_with_the_json_error_body(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            assert entry["summary"], (method, path)
            if path.startswith("/v1/"):
                assert {"401", "422", "503"} <= set(entry["responses"]), (method, path)
            for status, response in entry["responses"].items():
                headers = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}, "503": {"Retry-After"}}
                assert headers.get(status, set()) <= set(response.get("headers", {})), (method, path, status)
                if status == "default" or int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]["$ref"]
                    assert schema.rpartition("/")[2] in ("ErrorBody", "NotReady")
