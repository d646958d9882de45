"""`ipt demo`: from a dataset to predictions through the REST API."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app.cli.options import DEFAULT_URL, api_key
from app.cli.output import CliError, program, results, score

if TYPE_CHECKING:
    from app.cli.client import ServiceClient
    from app.cli.dataset_file import Row

_DATASET = Path(__file__).parents[2] / "examples" / "support_tickets.jsonl"
_PER_LABEL = 16
_HELD_BACK_PER_LABEL = 6
_SHOWN_WRONG = 3
_NAME = "support_tickets"
_TRY = "The bill shows an amount that I never agreed to"


def demo() -> None:
    """Start a service, adapt to examples/support_tickets.jsonl over HTTP, and classify new texts.

    If a service already runs on this machine, the demo uses it. Otherwise it starts one with its data in .ipt
    (IPT_DATA_DIR) and stops it at the end. It needs no other service, no network and no GPU.
    """
    from app.cli.client import ServiceClient
    from app.cli.dataset_file import read_dataset, rows_of
    from app.cli.service_process import running_service
    from app.settings import Settings

    if not _DATASET.is_file():
        raise CliError(f"the demo needs {_DATASET.name}: run it in a clone of the repository")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = results()
    seconds: dict[str, float] = {}
    examples, held_back, new = _split(rows_of(read_dataset(_DATASET)))
    labels = list(dict.fromkeys(row["output"] for row in examples))
    console.print(
        "[bold]Intrinsic prompt tuning: one frozen language model, one vector of 250 floats per task[/bold]\n"
    )

    with ExitStack() as stack:
        data_dir = Settings().data_dir
        url = DEFAULT_URL
        with ServiceClient(url) as probe:
            running = probe.ready()
        if running:
            console.print(f"[bold]1[/bold]  Using the running service at {url}")
        else:
            console.print(f"[bold]1[/bold]  Starting the service with its own PostgreSQL (data in {data_dir})")
            with _timed(seconds, "service ready"):
                # The demo shows the embedded mode even where the environment configures a production database.
                embedded = {"IPT_DATABASE_URL": "", "IPT_REDIS_URL": "", "IPT_DATA_DIR": str(data_dir)}
                url = stack.enter_context(running_service(data_dir / "demo.log", os.environ | embedded)).url
            console.print(f"   ready at {url} after {seconds['service ready']:.1f} s")
        client = stack.enter_context(ServiceClient(url, api_key()))

        console.print(
            f"\n[bold]2[/bold]  Adapting to {_DATASET.name}: {len(labels)} labels, {_PER_LABEL} examples each, "
            f"{len(held_back)} held back (POST /v1/adaptations)"
        )
        with _timed(seconds, "adaptation"):
            adaptation = _adapt(console, client, examples, held_back)
        _report(console, adaptation)

        console.print(
            f"\n[bold]3[/bold]  Classifying {len(new)} new tickets (POST /v1/tasks/{adaptation['task_id']}/predict)"
        )
        with _timed(seconds, f"{len(new)} predictions"):
            answer = client.predict(adaptation["task_id"], [row["input"] for row in new])
        _show_predictions(console, new, answer["predictions"])
        with _timed(seconds, "baseline"), console.status("fitting a plain classifier for comparison"):
            baseline = _baseline_accuracy(examples + held_back, new)
        if baseline is not None:
            console.print(f"   plain baseline, fitted on the same tickets: {score(baseline)}")
        with _timed(seconds, "stopping"):
            stack.close()

    console.print(
        "\n[bold]4[/bold]  Time taken: " + ", ".join(f"{stage} {duration:.1f} s" for stage, duration in seconds.items())
    )
    _print_next_steps(console, adaptation["task_id"], running=running)


def _split(rows: "list[Row]") -> "tuple[list[Row], list[Row], list[Row]]":
    """Split each label's rows into examples to adapt with, held-back rows to validate on, and new rows to classify."""
    seen: Counter[str] = Counter()
    examples: list[Row] = []
    held_back: list[Row] = []
    new: list[Row] = []
    for row in rows:
        seen[row["output"]] += 1
        if seen[row["output"]] <= _PER_LABEL:
            examples.append(row)
        elif seen[row["output"]] <= _PER_LABEL + _HELD_BACK_PER_LABEL:
            held_back.append(row)
        else:
            new.append(row)
    return examples, held_back, new


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began


def _adapt(console: Console, client: "ServiceClient", examples: "list[Row]", held_back: "list[Row]") -> dict[str, Any]:
    from app.cli.progress import adaptation_progress

    queued = client.create_adaptation(_NAME, examples, validation_examples=held_back)
    with adaptation_progress(console) as show:
        adaptation = client.wait(queued["id"], show)
    if adaptation["state"] != "succeeded":
        detail = adaptation.get("error") or {}
        raise CliError(f"the adaptation {adaptation['state']}: {detail.get('message', 'no reason was given')}")
    return adaptation


def _report(console: Console, adaptation: dict[str, Any]) -> None:
    from app.cli.tasks import metrics_table

    console.print(Padding(metrics_table(adaptation["metrics"]), (0, 0, 0, 3)))
    for warning in adaptation.get("warnings") or []:
        console.print(Text(f"   note: {warning}", style="yellow"))


def _show_predictions(console: Console, new: "list[Row]", predictions: list[dict[str, Any]]) -> None:
    from app.cli.tasks import answer_of

    rated = [
        (row, *answer_of(prediction), prediction["label"] == row["output"])
        for row, prediction in zip(new, predictions, strict=True)
    ]
    right = sum(correct for *_, correct in rated)
    first_right = {row["output"]: (row, label, confidence, ok) for row, label, confidence, ok in reversed(rated) if ok}
    shown = [*first_right.values(), *[entry for entry in rated if not entry[-1]][:_SHOWN_WRONG]]
    label_width = max(len(row["output"]) for row in new)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("  ", "answer", "score", "expected"):
        table.add_column(heading, no_wrap=True)
    table.add_column("ticket", no_wrap=True, overflow="ellipsis", max_width=console.width - 2 * label_width - 20)
    for row, label, confidence, correct in shown:
        mark = "[green] ✓[/green]" if correct else "[red] ✗[/red]"
        table.add_row(mark, Text(label), confidence, "" if correct else Text(row["output"]), Text(row["input"]))
    console.print(table)
    console.print(f"   {right} of {len(new)} new tickets right: [bold]{score(right / len(new))}[/bold]")


def _baseline_accuracy(examples: "list[Row]", new: "list[Row]") -> float | None:
    """Return the accuracy of logistic regression on frozen embeddings, or None if the backbone is no encoder."""
    import ipt
    from app.settings import Settings
    from ipt.backbones.encoder import EncoderBackbone
    from ipt.evaluation.baselines import logistic_regression

    settings = Settings()
    backbone = ipt.load_backbone(settings.backbone, revision=settings.backbone_revision, device=settings.device)
    if not isinstance(backbone, EncoderBackbone):
        return None
    answers = logistic_regression(backbone, [ipt.Example(**row) for row in examples], [row["input"] for row in new])
    return sum(answer == row["output"] for answer, row in zip(answers, new, strict=True)) / len(new)


def _print_next_steps(console: Console, task_id: str, *, running: bool) -> None:
    authorization = ' -H "authorization: Bearer $IPT_API_KEY"' if api_key() else ""
    curl = f"curl -s {DEFAULT_URL}/v1/tasks/{task_id}/predict{authorization} -H 'content-type: application/json'"
    ipt = program()
    console.print("\n[bold]What to try next[/bold]")
    lines = [] if running else ["make serve                # in another terminal; it has the task of the demo"]
    lines += [
        f'{curl} -d \'{{"inputs": ["{_TRY}"]}}\'',
        f"{ipt} adapt examples/reviews.jsonl",
        f'{ipt} predict reviews "Arrived on time, well packed, and broken"',
        f"open {DEFAULT_URL}/docs     # the whole API",
    ]
    for line in lines:
        # Without wrapping, so that a line can be pasted.
        console.print(Text(f"  {line}"), soft_wrap=True)
