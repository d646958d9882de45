"""A batch of 50,000 requests against a real `ipt serve` that is killed within it, and a batch cancelled half-way.

    python -m benchmarks.openai_batch [--requests N] [--backbone FOLDER --subspace FOLDER]

Starts the service and its PostgreSQL in a temporary folder; `IPT_*` variables are ignored. Writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.cli.dataset_file import read_dataset, rows_of
from app.openai.batches.requests import MAX_REQUESTS
from app.openai.dialect import PREFIX
from benchmarks.machine import provenance
from benchmarks.openai_requests import tuned_task
from benchmarks.report import Figure, section, write
from benchmarks.service import DATASET, split
from benchmarks.serving import http_client, peak_bytes, serving

WRONG_EVERY = 100
"""One request of so many is invalid and belongs into the error file."""
_POLL_SECONDS = 0.5


@dataclass
class Measured:
    """What two batches took; `peaks` has the most memory of each API process."""

    file_bytes: int = 0
    create_seconds: float = 0.0
    rate: float = 0.0
    total_seconds: float = 0.0
    cancelled_after: int = 0
    peaks: list[int] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openai_batch", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=MAX_REQUESTS, metavar="N", help="default: %(default)s")
    parser.add_argument("--backbone", metavar="FOLDER", help="default: the service's own")
    parser.add_argument("--subspace", metavar="FOLDER", help="a subspace of the backbone")
    options = parser.parse_args(arguments)
    # SIGTERM unwinds the stack, which stops the service.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="ipt-batch-") as folder:
        environment = {"IPT_DATA_DIR": str(Path(folder) / "data")}
        environment |= {"IPT_BACKBONE": options.backbone} if options.backbone else {}
        environment |= {"IPT_SUBSPACE": options.subspace} if options.subspace else {}
        measured = measure(Path(folder), environment, options.requests)
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = provenance(" ".join(["python -m benchmarks.openai_batch", *command_line]))
    report = section("A large batch of OpenAI's API", origin, figures(options.requests, measured))
    write(report)
    print(report)


def measure(folder: Path, environment: dict[str, str], requests: int) -> Measured:
    """Run a batch whose service is killed after a quarter of it, and a batch that is cancelled half-way.

    Raises:
        SystemExit: a batch lost, repeated or misplaced a response.
    """
    measured = Measured()
    with serving(folder / "first.log", environment) as service, http_client(service) as http:
        examples, rest = split(rows_of(read_dataset(DATASET)))
        task_id = tuned_task(http, examples)
        texts = [row["input"] for row in rest]
        content = batch_file(f"ft:backbone:default:support_tickets:{task_id.removeprefix('tsk_')}", texts, requests)
        measured.file_bytes = len(content)
        upload = http.post(
            f"{PREFIX}/files", files={"file": ("requests.jsonl", content)}, data={"purpose": "batch"}
        ).raise_for_status()
        file_id = upload.json()["id"]
        began = time.monotonic()
        batch_id = create(http, file_id)
        measured.create_seconds = time.monotonic() - began
        batch = until(http, batch_id, requests // 4)
        counts = batch["request_counts"]
        answering_seconds = time.monotonic() - began - measured.create_seconds
        measured.rate = (counts["completed"] + counts["failed"]) / answering_seconds
        measured.peaks.append(peak_bytes(service.process))
        service.process.kill()
        service.process.wait()
    with serving(folder / "second.log", environment) as service, http_client(service) as http:
        batch = until(http, batch_id, requests)
        measured.total_seconds = time.monotonic() - began
        check(http, batch, requests)
        batch_id = create(http, file_id)
        until(http, batch_id, requests // 2)
        http.post(f"{PREFIX}/batches/{batch_id}/cancel").raise_for_status()
        batch = until(http, batch_id, requests)
        measured.cancelled_after = batch["request_counts"]["completed"] + batch["request_counts"]["failed"]
        check(http, batch, measured.cancelled_after)
        measured.peaks.append(peak_bytes(service.process))
    return measured


def figures(requests: int, measured: Measured) -> list[Figure]:
    """Return the rows of the table."""
    what = (
        f"A file of {requests:,} chat completions ({measured.file_bytes / 1e6:.1f} MB, different texts), of which every"
        f" {WRONG_EVERY}th is invalid. Its service, PostgreSQL included, is started again after SIGKILL at a quarter."
    )
    minutes = measured.total_seconds / 60
    first, second = (peak / 1e9 for peak in measured.peaks)
    memory = (
        "Peak resident memory (`VmHWM`) of the API process that creates the batch, and of the one that completes it,"
        " writes and sends its files, and does the same for a second batch, which is cancelled half-way"
        f" (after {measured.cancelled_after:,} responses)."
    )
    return [
        Figure(
            f"a batch of {requests:,} requests",
            f"{minutes:.0f} minutes, {measured.rate:.0f} requests a second; created in {measured.create_seconds:.1f} s",
            "≤ 24 h",
            minutes <= 24 * 60,
            f"{what} The time includes the start and the 60 s until the lease of the killed process has expired; each"
            " request has one response, in the right file and order.",
        ),
        Figure("memory of the API processes", f"{first:.2f} GB, {second:.2f} GB", "≤ 1.2 GB", second <= 1.2, memory),
    ]


def batch_file(model: str, texts: Sequence[str], requests: int) -> bytes:
    """Return a file of chat completions with different texts."""
    lines = []
    for number in range(requests):
        message = {"role": "user", "content": f"{texts[number % len(texts)]} {number}"}
        body: dict[str, Any] = {"model": model, "messages": [message]}
        if number % WRONG_EVERY == WRONG_EVERY - 1:
            body["n"] = 0
        lines.append({"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    return "\n".join(map(json.dumps, lines)).encode()


def create(http: httpx.Client, file_id: str) -> str:
    """Create a batch, and return its id."""
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id: str = http.post(f"{PREFIX}/batches", json=body).raise_for_status().json()["id"]
    return batch_id


def until(http: httpx.Client, batch_id: str, responses: int) -> dict[str, Any]:
    """Wait until a batch has a number of responses, or until it has ended if that is all of them."""
    while True:
        batch: dict[str, Any] = http.get(f"{PREFIX}/batches/{batch_id}").raise_for_status().json()
        counts = batch["request_counts"]
        ended = batch["status"] not in ("in_progress", "cancelling")
        if ended or responses <= counts["completed"] + counts["failed"] < counts["total"]:
            return batch
        time.sleep(_POLL_SECONDS)


def check(http: httpx.Client, batch: dict[str, Any], answered: int) -> None:
    """Check that each request before the end of a batch has one response, in the file where it belongs."""
    ids = {}
    for kind in ("output", "error"):
        content = http.get(f"{PREFIX}/files/{batch[f'{kind}_file_id']}/content").raise_for_status().text
        ids[kind] = [json.loads(line)["custom_id"] for line in content.splitlines()]
    numbers = range(answered)
    wrong = [f"r{number}" for number in numbers if number % WRONG_EVERY == WRONG_EVERY - 1]
    right = [f"r{number}" for number in numbers if number % WRONG_EVERY != WRONG_EVERY - 1]
    if ids != {"output": right, "error": wrong}:
        raise SystemExit("error: the files of the batch lack responses, or have them twice or in the wrong order")


if __name__ == "__main__":
    main()
