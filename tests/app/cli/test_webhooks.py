"""`ipt webhooks` against a running service."""

import json

import httpx
import pytest

from app.cli.root import run
from tests.support.cli import Captured, one_error_line


def test_a_webhook_is_registered_listed_and_deleted(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("IPT_URL", str(client.base_url))
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    assert run(["webhooks", "list"]) == 0
    assert "no webhooks" in capsys.readouterr().err
    receiver = "https://receiver.invalid/hook"
    assert run(["webhooks", "create", receiver, "--event", "batch.completed"]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("whsec_")
    assert run(["webhooks", "create", receiver, "--json"]) == 0
    webhook = json.loads(capsys.readouterr().out)
    assert {"fine_tuning.job.failed", "batch.completed"} < set(webhook["event_types"])
    assert run(["webhooks", "list"]) == 0
    printed = capsys.readouterr().out
    assert webhook["id"] in printed
    assert secret not in printed
    assert run(["webhooks", "rotate-secret", webhook["id"]]) == 0
    assert capsys.readouterr().out.strip() != webhook["signing_secret"]
    assert run(["webhooks", "test", webhook["id"]]) == 1
    assert "the host name is unknown" in one_error_line(capsys)
    assert run(["webhooks", "delete", webhook["id"]]) == 0
    capsys.readouterr()
    assert run(["webhooks", "delete", webhook["id"]]) == 1
    assert "no webhook endpoint" in one_error_line(capsys)
    assert run(["webhooks", "create", "http://127.0.0.1/hook"]) == 1
    assert "IPT_WEBHOOK_PRIVATE_NETWORKS" in one_error_line(capsys)
