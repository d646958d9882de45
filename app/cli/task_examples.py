"""`ipt tasks examples` and `ipt tasks edit`: see what a task was tuned on, and change it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, LabelSeparator, Url, api_key
from app.cli.output import CliError, notices, print_json, results, score
from app.cli.tasks import one_line, resolve_task

_ID_CHARS = 28

Task = Annotated[str, typer.Argument(help="Id of a task, or its name.", metavar="TASK")]


def examples(
    task: Task,
    version: Annotated[int | None, typer.Option(help="Version of the task. Default: the newest.", min=1)] = None,
    label: Annotated[str | None, typer.Option(help="Only examples with this label.")] = None,
    output_format: Annotated[
        str | None, typer.Option("--format", help="Print a file instead of a table: jsonl or csv.", metavar="FORMAT")
    ] = None,
    suspect: Annotated[bool, typer.Option("--suspect", help="Only examples that another label fits better.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show the examples that a task was tuned on, with their ids, or print them as a file.

    \b
    ipt tasks examples support_tickets --label billing
    ipt tasks examples support_tickets --suspect
    ipt tasks examples support_tickets --format csv > tickets.csv
    """
    from app.cli.client import ServiceClient

    if output_format not in (None, "jsonl", "csv"):
        raise CliError(f"--format must be jsonl or csv, got {output_format!r}")
    chosen = {"version": version, "label": label}
    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        if output_format is not None:
            sys.stdout.write(client.examples_file(task_id, output_format, **chosen))
            return
        if suspect:
            found = client.suspects(task_id, version)
            rows = [{**each["example"], "rather": _rather(each)} for each in found]
        else:
            rows = client.examples(task_id, **chosen)
    rows = [row for row in rows if label is None or label in _labels(row["output"])]
    if not rows:
        notices().print("no such examples")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=_ID_CHARS)
    headings = ("output", "rather", "input") if suspect else ("output", "input")
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "input", overflow="ellipsis")
    for row in rows:
        table.add_row(row["id"], *(Text(one_line(", ".join(_labels(row[heading])))) for heading in headings))
    results().print(table)


def edit(
    task: Task,
    add: Annotated[Path | None, typer.Option(help="File with examples to add.", metavar="FILE")] = None,
    label_separator: LabelSeparator = None,
    relabel: Annotated[
        list[str] | None,
        typer.Option(help="Give an example another label, or a JSON list of labels; repeatable.", metavar="ID=LABEL"),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Remove an example; repeatable.", metavar="ID")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="Rename a label; repeatable.", metavar="LABEL=NEW")] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(help="Put a label's examples under another one; repeatable.", metavar="LABEL=INTO"),
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Fail unless this is the newest version. Default: whichever is.", min=1)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result, or only queue it.")] = True,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Change the examples of a task and tune a further version, which starts at the vector of the newest one.

    \b
    ipt tasks edit support_tickets --add new.csv
    ipt tasks edit support_tickets --relabel exm_5f0c…=billing --remove exm_71aa…
    ipt tasks edit support_tickets --rename bug=defect --merge payment=billing
    """
    from app.cli.client import ServiceClient
    from app.cli.dataset_file import read_dataset, rows_of
    from app.cli.progress import adaptation_progress

    changes: dict[str, Any] = {
        "add": [],
        "relabel": [{"id": name, "output": label} for name, label in map(_pair, relabel or [])],
        "remove": [{"id": name} for name in remove or []],
        "rename_labels": [{"label": label, "to": to} for label, to in map(_pair, rename or [])],
        "merge_labels": [{"labels": [label], "into": into} for label, into in map(_pair, merge or [])],
    }
    changes = {name: values for name, values in changes.items() if values}
    if not changes and add is None:
        raise CliError("name a change: --add, --relabel, --remove, --rename or --merge")
    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        if add is not None:
            multilabel = client.is_multilabel(task_id)
            changes["add"] = rows_of(read_dataset(add, multilabel=multilabel, label_separator=label_separator))
        base = client.newest_examples_version(task_id) if version is None else version
        adaptation = client.change_examples(task_id, {"version": base, **changes})
        if wait:
            with adaptation_progress(notices()) as show:
                adaptation = client.wait(adaptation["id"], show)
    if as_json:
        print_json(adaptation)
    if adaptation["state"] in ("failed", "cancelled"):
        detail = adaptation.get("error") or {}
        raise CliError(f"{adaptation['id']} {adaptation['state']}: {detail.get('message', 'no reason was given')}")
    if not as_json:
        after = f", {score(adaptation['metrics'].get('score'))}" if adaptation.get("metrics") else ""
        results().print(
            f"{task_id} version {adaptation['task_version']}: {adaptation['state']}{after}",
            markup=False,
            soft_wrap=True,
        )
        for warning in adaptation["warnings"]:
            notices().print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _labels(output: str | list[str]) -> list[str]:
    return [output] if isinstance(output, str) else output


def _rather(suspect: dict[str, Any]) -> str:
    """Return the label that fits better; of several labels, the one that is lacking or too many."""
    label: str = suspect["likely_label"]
    if isinstance(suspect["example"]["output"], str):
        return label
    return f"with {label}" if suspect["belongs"] else f"without {label}"


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.rpartition("=")
    if not separator or not name or not value:
        raise CliError(f"{text!r} is not a pair: expected NAME=VALUE")
    return name, value
