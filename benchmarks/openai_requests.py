"""What OpenAI's dialect and classification in one call cost, measured over HTTP against a real `ipt serve`.

    python -m benchmarks.openai_requests [--quick]

Starts the service in a temporary folder with default settings; `IPT_*` variables are ignored. Writes
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from app.cli.dataset_file import Row, read_dataset, rows_of
from benchmarks.machine import provenance
from benchmarks.report import Figure, section, write
from benchmarks.service import DATASET, PER_LABEL, SHORT_TEXT, post, split
from benchmarks.serving import http_client, serving

WARM_UP, ROUNDS, QUICK_ROUNDS = 10, 200, 20
INPUTS = 16
SPARE_TEXT = "Please answer soon"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.openai_requests", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"measure {QUICK_ROUNDS} rounds instead of {ROUNDS}")
    options = parser.parse_args(arguments)
    # SIGTERM unwinds the stack, which stops the service.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    examples, rest = split(rows_of(read_dataset(DATASET)))
    with tempfile.TemporaryDirectory(prefix="ipt-bench-") as folder:
        environment = {"IPT_DATA_DIR": folder}
        with serving(Path(folder) / "log", environment) as service, http_client(service) as http:
            texts = [row["input"] for row in rest][:INPUTS]
            figures = [
                overhead(http, tuned_task(http, examples), QUICK_ROUNDS if options.quick else ROUNDS),
                *classification(http, examples, texts, 1 if options.quick else 5),
            ]
    origin = provenance("python -m benchmarks.openai_requests" + (" --quick" if options.quick else ""))
    report = section("OpenAI's dialect, and classification in one call", origin, figures)
    write(report)
    print(report)


def tuned_task(http: httpx.Client, examples: list[Row]) -> str:
    """Return the id of a task; tuning changes nothing in the time of an answer, so it has no steps."""
    body = {"name": "support_tickets", "examples": examples, "hyperparameters": {"steps": 0}}
    adaptation = http.post("/v1/adaptations", json=body).raise_for_status().json()
    while adaptation["state"] not in ("succeeded", "failed"):
        time.sleep(0.1)
        adaptation = http.get(f"/v1/adaptations/{adaptation['id']}").raise_for_status().json()
    if adaptation["state"] == "failed":
        raise SystemExit(f"error: the adaptation failed: {adaptation['error']}")
    return str(adaptation["task_id"])


def overhead(http: httpx.Client, task_id: str, rounds: int) -> Figure:
    """Compare a chat completion with the native prediction of the same text by the same task."""
    model = f"ft:backbone:default:support_tickets:{task_id.removeprefix('tsk_')}"
    bodies: dict[str, dict[str, Any]] = {
        "/openai/v1/chat/completions": {"model": model, "messages": [{"role": "user", "content": SHORT_TEXT}]},
        f"/v1/tasks/{task_id}/predict": {"inputs": [SHORT_TEXT]},
    }
    times: dict[str, list[float]] = {path: [] for path in bodies}
    for number in range(WARM_UP + rounds):
        for path in sorted(bodies, reverse=number % 2 == 1):  # each comes second in every other round
            milliseconds = 1000 * post(http, path, bodies[path])
            if number >= WARM_UP:
                times[path].append(milliseconds)
    chat, native = (statistics.median(times[path]) for path in bodies)
    how = (
        f"`POST /openai/v1/chat/completions` against `POST /v1/tasks/{{id}}/predict` with the same text of"
        f" {len(SHORT_TEXT)} characters and the same task, from one client on a keep-alive connection; {rounds}"
        f" alternating rounds after {WARM_UP} to warm up, medians."
    )
    measured = f"{chat:.1f} ms against {native:.1f} ms: {chat / native:.2f}×"
    return Figure("a chat completion, a prediction", measured, "≤ 1.15×", chat <= 1.15 * native, how)


def classification(http: httpx.Client, examples: list[Row], texts: list[str], times: int) -> list[Figure]:
    """Measure a request with examples that the service has not seen, and the same request again."""
    first, again = [], []
    for number in range(times):
        # Other examples each time: the service keeps what it has fitted.
        fresh = [*examples[1:], {**examples[0], "input": f"{SPARE_TEXT} {number}"}]
        body = {"examples": fresh, "inputs": texts}
        first.append(post(http, "/v1/classify", body))
        again.append(post(http, "/v1/classify", body))
    labels = len({row["output"] for row in examples})
    how = (
        f"`POST /v1/classify` with {labels} labels of {PER_LABEL} examples and {len(texts)} texts of {DATASET.name};"
        f" median of {times}"
    )
    middle, repeated = statistics.median(first), statistics.median(again)
    return [
        Figure("classified by new examples", f"{middle:.2f} s", "≤ 2 s", middle <= 2, f"{how}."),
        Figure(
            "classified by the same examples again",
            f"{repeated:.2f} s",
            "≤ 0.3 s",
            repeated <= 0.3,
            f"{how}, each directly after the request above.",
        ),
    ]


if __name__ == "__main__":
    main()
