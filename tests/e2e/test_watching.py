"""Observability of a running service: JSON logs, metrics, and the dashboard."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.cli.service_process import free_ports, running_service

pytestmark = pytest.mark.timeout(400)

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = DOCS / "grafana-dashboard.json"
DEPLOYMENT = DOCS / "deployment.md"
WORDS = ("xyzzy", "plugh")
SAMPLES_OF = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def watched(
    tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str, str]:
    """A finished adaptation that was used for a prediction, the log, and the metrics of API and worker."""
    folder = tmp_path_factory.mktemp("watched")
    [port] = free_ports(1)
    variables = {
        "IPT_BACKBONE": str(tiny_backbone_dir),
        "IPT_SUBSPACE": str(tiny_subspace_dir),
        "IPT_DEVICE": "cpu",
        "IPT_DATA_DIR": str(folder / "data"),
        "IPT_LOG_FORMAT": "json",
        "IPT_METRICS_PORT": str(port),
    }
    body = {
        "name": "tickets",
        "examples": [{"input": f"{word} {number}", "output": word} for number in range(4) for word in WORDS],
        "hyperparameters": {"steps": 1},
    }
    log = folder / "log"
    with running_service(log, os.environ | variables) as running:
        url = running.url
        headers = {"x-request-id": "followed.1"}
        adaptation = httpx.post(f"{url}/v1/adaptations", json=body, headers=headers, timeout=60).json()
        deadline = time.monotonic() + 120
        while "adaptation_succeeded" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        body = {"inputs": [WORDS[0]]}
        httpx.post(f"{url}/v1/tasks/{adaptation['task_id']}/predict", json=body, timeout=60).raise_for_status()
        addresses = (f"{url}/metrics", f"http://127.0.0.1:{port}/metrics")
        metrics = "".join(httpx.get(address, timeout=60).raise_for_status().text for address in addresses)
    return adaptation, log.read_text(), metrics


def test_the_log_follows_an_adaptation_from_its_request_to_its_end(
    watched: tuple[dict[str, Any], str, str],
) -> None:
    adaptation, written, _ = watched
    lines = [json.loads(line) for line in written.splitlines()]
    of_adaptation = [line for line in lines if line.get("adaptation") == adaptation["id"]]
    events = [line["event"] for line in of_adaptation]
    assert events == ["adaptation_created", "adaptation_claimed", "adaptation_succeeded"]
    assert of_adaptation[0]["request"] == "followed.1"
    assert of_adaptation[0]["pid"] != of_adaptation[1]["pid"]
    [served] = [line for line in lines if line.get("event") == "request_served" and line["request"] == "followed.1"]
    assert (served["method"], served["route"], served["status"]) == ("POST", "/v1/adaptations", 202)
    assert "uvicorn.error" in {line["logger"] for line in lines}
    assert not [word for word in WORDS if word in written]


def test_the_dashboard_and_the_documentation_cover_exactly_the_exported_metrics(
    watched: tuple[dict[str, Any], str, str],
) -> None:
    families = list(text_string_to_metric_families(watched[2]))
    exported = {family.name + suffix for family in families for suffix in SAMPLES_OF.get(family.type, ())}
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queried = {name for target in targets for name in re.findall(r"\bipt_\w+", target["expr"])}
    assert queried
    assert queried <= exported
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
    [variable] = dashboard["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    # Conversely, every exported metric is shown and documented.
    ours = [family for family in families if family.name.startswith("ipt_")]
    names = {family.name + "_total" * (family.type == "counter") for family in ours}
    assert names == {name for name in names if any(query.startswith(name) for query in queried)}
    assert names == set(re.findall(r"^\| `(ipt_\w+)", DEPLOYMENT.read_text(), re.MULTILINE))
