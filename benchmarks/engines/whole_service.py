"""The whole service under saturating load, against its engine and against LitServe."""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local

import psutil
from safetensors.torch import save_file

import ipt
from app.cli.client import ServiceClient
from app.cli.output import CliError
from app.cli.service_process import child_process, free_ports, wait_until_ready
from benchmarks.engines.backbones import Measured, few_shot, tasks, texts
from benchmarks.engines.timing import Ratio, faster, in_turn
from benchmarks.report import Figure
from benchmarks.serving import serving

CLIENTS, REQUESTS, BATCH = 64, 1024, 64
READY_SECONDS = 120.0


def service(measured: Measured, rounds: int) -> Iterator[Figure]:
    """Compare the service with its engine and with LitServe, on requests of one text each."""
    inputs = texts(REQUESTS)
    predictor = ipt.Predictor(measured.backbone, measured.subspace)
    [task] = tasks(measured, 1)

    def engine() -> None:
        for start in range(0, REQUESTS, BATCH):
            predictor.predict([(task, text) for text in inputs[start : start + BATCH]])

    with tempfile.TemporaryDirectory(prefix="ipt-bench-") as name:
        folder = Path(name)
        with (
            serving(folder / "service.log", {"IPT_DATA_DIR": name}) as ours,
            litserving(folder, measured, task) as peer,
        ):
            path = f"/v1/tasks/{adapt_task(ours.url, ours.key)}/predict"
            ways: dict[str, Callable[[], object]] = {
                "engine": engine,
                "litserve": lambda: post_all(peer, "/predict", None, [{"input": text} for text in inputs]),
                "service": lambda: post_all(ours.url, path, ours.key, [{"inputs": [text]} for text in inputs]),
            }
            seconds = in_turn(ways, rounds, measured.backbone.device)
    how = (
        f"{REQUESTS} requests of one text each, from {CLIENTS} concurrent clients on keep-alive connections in the"
        f" measuring process, which shares the processor. {rounds} alternating rounds: median, minimum and maximum."
    )
    of_engine, of_peer = faster(seconds, "service", "engine"), faster(seconds, "service", "litserve")
    yield _figure(
        "the whole service, of its engine", of_engine, 0.85,
        "`ipt serve` with defaults, against `Predictor.predict` on the same texts in this process, in batches of"
        f" {BATCH}. {how}",
    )  # fmt: skip
    yield _figure(
        "the whole service, against LitServe", of_peer, 1.2,
        "The same requests to LitServe with the same backbone, one prompt and one readout, each text read twice"
        f" as well, in batches of up to {BATCH} rows with a batch timeout of 3 ms"
        f" (`benchmarks/engines/litserve_peer.py`). {how}",
    )  # fmt: skip


def adapt_task(url: str, key: str) -> str:
    """Adapt to a task of six labels, and return its id."""
    rows = [{"input": example.input, "output": example.output} for example in few_shot(3, 0)]
    with ServiceClient(url, key) as client:
        adaptation = client.wait(client.create_adaptation("tickets", rows)["id"])
    if adaptation["state"] != "succeeded":
        raise SystemExit(f"error: the adaptation {adaptation['state']}: {adaptation['error']}")
    return str(adaptation["task_id"])


def post_all(url: str, path: str, key: str | None, bodies: list[dict[str, object]]) -> None:
    """Post all bodies; each client sends its next request as soon as it has an answer."""
    address = url.removeprefix("http://")
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    of_thread = local()

    def post(body: dict[str, object]) -> None:
        if not hasattr(of_thread, "connection"):
            of_thread.connection = http.client.HTTPConnection(address, timeout=60)
        of_thread.connection.request("POST", path, json.dumps(body), headers)
        response = of_thread.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"error: {path} answered {response.status}: {answer[:200]!r}")

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(post, bodies))


@contextmanager
def litserving(folder: Path, measured: Measured, task: ipt.BoundTask) -> Iterator[str]:
    """Run LitServe with one task on a free port until the block ends; yield its address."""
    readout = task.readout
    assert readout is not None
    parts = {
        "prompt": measured.subspace.decoder(task.vector[None])[0],
        "weights": readout.weights.float() * readout.row_scale[:, None],
        "bias": readout.bias,
    }
    save_file({name: part.detach().contiguous() for name, part in parts.items()}, folder / "task.safetensors")
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.engines.litserve_peer", str(port), str(folder / "task.safetensors")]
    log_file = folder / "litserve.log"
    with child_process(command, log_file, os.environ) as process:
        try:
            wait_until_ready(process, lambda: _healthy(url), log_file, READY_SECONDS)
            yield url
        except CliError as error:
            raise SystemExit(f"error: LitServe: {error}\n{log_file.read_text(errors='replace')}") from error
        finally:
            # On SIGTERM it would leave its worker processes behind.
            for running in [*psutil.Process(process.pid).children(recursive=True), process]:
                running.kill()


def _healthy(url: str) -> bool:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _figure(what: str, ratio: Ratio, goal: float, how: str) -> Figure:
    return Figure(what, str(ratio), f"≥ {goal:g}×", ratio.median >= goal, how)
