"""API keys, scopes, and access without a key on the same machine."""

import socket
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from pydantic import ValidationError
from sqlalchemy import Engine, func, text, update

from app import logs
from app.api_keys import service as api_keys
from app.api_keys.admitting_route import AdmittingRoute
from app.db.models import ApiKey
from app.db.session import transaction
from app.main import create_app
from app.settings import Settings, SettingsError
from tests.support.service import Serve, error_of

KEY = "a-key-of-sixteen-characters-or-more"


def test_without_a_key_only_the_health_checks_respond(client: httpx.Client) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic eA=="},
        {"Authorization": "Bearer"},
    ):
        with httpx.Client(base_url=client.base_url, headers=headers) as stranger:
            for path in ("/v1/tasks", "/v1/adaptations", "/v1/subspaces"):
                response = stranger.get(path)
                assert response.status_code == 401
                assert error_of(response)["type"] == "authentication_error"
                assert response.headers["www-authenticate"] == "Bearer"
            assert stranger.get("/healthz").status_code == stranger.get("/readyz").status_code == 200


def _response_to_announced_body(client: httpx.Client, method: str, path: str, content_type: str) -> httpx.Response:
    """Return the response to a request that announces a body and sends nothing of it."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {client.headers['authorization']}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(head.encode())
        response = HTTPResponse(connection)
        response.begin()
        return httpx.Response(response.status, content=response.read())


def test_no_body_is_read_before_its_sender_is_admitted(new_client: Callable[..., httpx.Client]) -> None:
    predicting, stranger = new_client(scopes=("predict",)), new_client()
    stranger.headers["authorization"] = "Bearer unknown"
    for content_type in ("application/json", "multipart/form-data; boundary=x"):
        refused = _response_to_announced_body(predicting, "POST", "/v1/adaptations", content_type)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_missing")
        for path, methods in stranger.get("/openapi.json").json()["paths"].items():
            for method in methods if path.startswith("/v1/") else ():
                refused = _response_to_announced_body(stranger, method.upper(), path, content_type)
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "api_key_unknown"), path


def test_a_malformed_body_with_an_unknown_key_gets_401(client: httpx.Client) -> None:
    headers = {"Authorization": "Bearer unknown", "content-type": "application/json"}
    assert client.post("/v1/predict", content=b"{", headers=headers).status_code == 401


def test_a_route_without_a_tenant_cannot_be_defined() -> None:
    def without_tenant() -> None:
        """Takes no tenant."""

    with pytest.raises(TypeError, match="/v1/open takes no tenant"):
        APIRouter(route_class=AdmittingRoute).add_api_route("/v1/open", without_tenant)


def test_issued_keys_and_the_operators_key_are_admitted_and_revoked_keys_are_not(serve: Serve, engine: Engine) -> None:
    with serve(wait=False, embedded=False, api_key=KEY) as client:
        with transaction(engine) as session:
            _, issued = api_keys.issue(session, "somebody")

        def status(key: str) -> int:
            return client.get("/v1/tasks", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status(KEY), status(issued), status(issued[:-1] + "x"), status(KEY + "x")) == (200, 200, 401, 401)
        with transaction(engine) as session:
            session.execute(text("UPDATE api_keys SET revoked_at = now()"))
        assert (status(KEY), status(issued)) == (200, 401)


def test_an_expired_key_is_rejected(service_engine: Engine, new_client: Callable[..., httpx.Client]) -> None:
    client = new_client(lifetime=timedelta(days=30))
    assert client.get("/v1/tasks").status_code == 200
    with transaction(service_engine) as session:
        session.execute(update(ApiKey).where(ApiKey.expires_at.is_not(None)).values(expires_at=func.now()))
    response = client.get("/v1/tasks")
    assert (response.status_code, error_of(response)["code"]) == (401, "api_key_unknown")


@pytest.mark.parametrize("scopes", [("predict",), ("adapt",), ("adapt", "predict"), ("admin",)])
def test_a_key_may_do_only_what_its_scopes_allow(
    new_client: Callable[..., httpx.Client], scopes: tuple[str, ...]
) -> None:
    client = new_client(scopes=scopes)
    all_scopes = set()
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, entry in methods.items():
            needed = {scope for scheme in entry.get("security", []) for scope in scheme["HTTPBearer"]}
            documented = {"403", "default"} & set(entry["responses"])  # OpenAI's dialect documents all errors as one
            assert bool(documented) >= bool(needed), (method, path)
            assert ("403" in documented) <= bool(needed), (method, path)
            rejected = bool(needed - set(scopes)) and scopes != ("admin",)
            response = client.request(method, path.replace("{", "").replace("}", ""))
            assert (response.status_code == 403) == rejected, (method, path)
            if rejected:
                error = error_of(response)
                assert error["code"] == "scope_missing"
                assert all(f"'{scope}'" in error["message"] for scope in needed)
            all_scopes |= needed
    assert all_scopes == {"adapt", "predict"}


def test_the_operators_key_and_open_access_allow_everything(serve: Serve) -> None:
    unknown = "/v1/adaptations/adp_unknown/cancel"
    with serve(wait=False) as client:
        assert client.post(unknown).status_code == 404
    with serve(wait=False, api_key=KEY) as client:
        assert client.post(unknown, headers={"Authorization": f"Bearer {KEY}"}).status_code == 404


def test_only_the_hashes_of_keys_are_stored(service_engine: Engine, new_client: Callable[[], httpx.Client]) -> None:
    key = new_client().headers["authorization"].removeprefix("Bearer ")
    with transaction(service_engine) as session:
        rows = str(session.execute(text("SELECT * FROM api_keys")).all())
    assert key not in rows
    assert key[:12] in rows


def test_access_without_a_key_requires_a_loopback_host(serve: Serve) -> None:
    with serve(wait=False) as client:
        assert client.get("/v1/tasks").status_code == 200
        for host in ("localhost:1", "LocalHost", "127.0.0.1", "[::1]", "[::1]:8000"):
            assert client.get("/v1/tasks", headers={"Host": host}).status_code == 200, host
        foreign = ["evil.example", "localhost.evil.example", "10.0.0.1:8000", "[2001:db8::1]"]
        malformed = ["", ":8000", "localhost:port", "localhost:80:80", "localhost:8000#", "localhost/", "localhost, x"]
        malformed += ["127.0.0.1@evil.example", "evil.example@127.0.0.1", "[::1", "::1", "[[::1]]", "[127.0.0.1]"]
        for host in foreign + malformed:
            response = client.get("/v1/tasks", headers={"Host": host})
            assert (response.status_code, error_of(response)["code"]) == (400, "unknown_host"), host
        for host_headers in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
            with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
                connection.sendall(b"GET /v1/tasks HTTP/1.1\r\n" + host_headers + b"\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_access_without_a_key_rejects_web_pages_of_other_hosts(serve: Serve) -> None:
    form: dict[str, Any] = {
        "data": {"name": "tickets"},
        "files": {"file": ("a.csv", "input,output\na,x\nb,x\nc,y\nd,y\n")},
    }
    with serve(wait=False) as client:
        for origin in ("http://evil.example", "https://127.0.0.1.evil.example", "null", "http://evil.example:8000", ""):
            response = client.post("/v1/adaptations", headers={"Origin": origin}, **form)
            assert (response.status_code, error_of(response)["code"]) == (400, "foreign_origin"), origin
        for origin in ("http://127.0.0.1:8000", "http://localhost:3000", "https://[::1]"):
            response = client.post("/v1/adaptations", headers={"Origin": origin}, **form)
            assert response.status_code == 202, origin
    with serve(wait=False, api_key=KEY) as client:
        headers = {"Origin": "http://app.example", "Authorization": f"Bearer {KEY}"}
        assert client.post("/v1/adaptations", headers=headers, **form).status_code == 202


def test_a_configured_key_is_required_on_the_same_machine_too(serve: Serve) -> None:
    with serve(wait=False, api_key=KEY) as client:
        assert client.get("/v1/tasks").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_a_public_address_without_a_key_is_rejected(host: str) -> None:
    with pytest.raises(SettingsError, match="IPT_API_KEY"):
        create_app(Settings.model_construct(**{**Settings().model_dump(), "host": host}))
    create_app(Settings(host=host, api_key=KEY))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).open_access


def test_settings_are_validated_at_startup_and_printed_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = [("DATABASE_URL", "mysql://x"), ("API_KEY", "short"), ("PORT", "-1"), ("LEASE_SECONDS", "0")]
    invalid += [("LEASE_SECONDS", "inf"), ("LEASE_SECONDS", "9"), ("HEARTBEAT_SECONDS", "31"), ("POLL_SECONDS", "1e10")]
    invalid += [("METRICS_PORT", "0"), ("REQUESTS_PER_MINUTE", "60000001"), ("PREDICT_WAIT_MS", "1e12")]
    for name, value in [*invalid, ("API_KEY", f"{KEY}\n{KEY}"), ("API_KEY", f"{KEY} ")]:
        with monkeypatch.context() as patch:
            patch.setenv(f"IPT_{name}", value)
            with pytest.raises(ValidationError):
                Settings()
    monkeypatch.setenv("IPT_DATABASE_URL", "postgres://user:hunter2@db/ipt")
    monkeypatch.setenv("IPT_API_KEY", KEY)
    settings = Settings()
    assert settings.database_url == "postgresql+psycopg://user:hunter2@db/ipt"
    for printed in (repr(settings), str(settings.described())):
        assert "hunter2" not in printed
        assert KEY not in printed


def test_a_misspelt_setting_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("IPT_MAX_EXAMPELS", "IPT_MAX_EXAMPLES", "IPT_URL", "ELSEWHERE"):
        monkeypatch.setenv(name, "4")
    logs.warn_of_unknown_settings()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("unknown_setting name=IPT_MAX_EXAMPELS:")
