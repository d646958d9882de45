"""The commands and code in README.md and docs/api.md run as they are printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.service_process import running_service

pytestmark = pytest.mark.timeout(400)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

ROOT = Path(__file__).parents[2]
PRINTED_URL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def service(
    tiny_backbone_dir: Path, tiny_subspace_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a service on the tiny backbone."""
    folder = tmp_path_factory.mktemp("documents")
    tiny = {"IPT_BACKBONE": str(tiny_backbone_dir), "IPT_SUBSPACE": str(tiny_subspace_dir), "IPT_DEVICE": "cpu"}
    environment = os.environ | tiny | {"IPT_DATA_DIR": str(folder / "data")}
    with running_service(folder / "log", environment) as running:
        yield running.url


def blocks(document: str, language: str, *, below: str = "") -> list[str]:
    """Return the fenced blocks of one language in the document, or below a heading."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text[text.index(below) :], flags=re.DOTALL | re.MULTILINE)


def bash(script: str) -> str:
    """Run a script, in which every command and every HTTP request must succeed, and return its output."""
    script = script.replace("curl -s", "curl --fail-with-body -s")
    script = script.replace(".venv/bin/python", shlex.quote(sys.executable))
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@needs_curl
def test_the_requests_of_the_readme(service: str) -> None:
    adapt, follow, ask = re.split(r"\n\n", blocks("README.md", "sh", below="## The API by example")[0].strip())
    queued = json.loads(bash(adapt.replace(PRINTED_URL, service)))
    assert queued["state"] == "queued"
    ids = {"adp_…": queued["id"], "tsk_…": queued["task_id"]}

    def run_pasted(block: str) -> dict[str, Any]:
        for printed, real in {PRINTED_URL: service, **ids}.items():
            block = block.replace(printed, real)
        answer: dict[str, Any] = json.loads(bash(block))
        return answer

    deadline = time.monotonic() + 120
    while run_pasted(follow)["state"] != "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    [prediction] = run_pasted(ask)["predictions"]
    assert set(prediction["scores"]) == {"billing", "delivery"}


@needs_curl
def test_the_requests_of_the_api_guide(service: str, tmp_path: Path) -> None:
    script = "\n".join(blocks("docs/api.md", "sh"))
    assert f"url={PRINTED_URL}" in script
    bash(script.replace(PRINTED_URL, service).replace("/tmp/", f"{tmp_path}/"))
    deadline = time.monotonic() + 60
    while not httpx.get(f"{service}/v1/adaptations?state=cancelled").json()["data"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_python_code_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs with the default backbone and subspace, and with two more examples in place of '...'."""
    [block] = blocks("README.md", "python")
    more = 'ipt.Example("The invoice is wrong", "billing"), ipt.Example("The courier lost my box", "delivery")'
    assert "...]" in block
    exec(block.replace("...]", f"{more}]"), {})
    scores, answer = capsys.readouterr().out.strip().splitlines()
    assert scores.endswith("(250,)")
    assert answer.startswith("billing")
