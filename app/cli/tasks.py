"""The commands that use a running service: `adapt`, `predict`, `generate`, `tasks`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, LabelSeparator, Url, api_key, without_none
from app.cli.output import CliError, notices, print_json, program, results, score, score_table
from app.cli.standard_input import lines_from_stdin, text_from_stdin

if TYPE_CHECKING:
    from app.cli.client import ServiceClient

_SCORE_AND_GAPS = 10


def adapt(
    file: Annotated[
        Path, typer.Argument(help="JSON lines, CSV, Excel or other file with one example per row.", metavar="FILE")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the task. Default: that of the file.")] = None,
    input_column: Annotated[str | None, typer.Option(help="Column of the input texts.")] = None,
    output_column: Annotated[str | None, typer.Option(help="Column of the labels or output texts.")] = None,
    charset: Annotated[str | None, typer.Option(help="Charset of a file that is not in UTF-8.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="classification, multilabel or text2text. Default: inferred.", metavar="KIND")
    ] = None,
    label_separator: LabelSeparator = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how the file is read.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result, or only queue it.")] = True,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Adapt to a few-shot task: send a dataset, tune a task vector, and compare it with the baselines.

    The columns are input and output, text and label, or others with usual names, or the ones that the options name.

    Dots name nested keys, such as data.text; commas join columns to one input, such as title,body.

    \b
    ipt adapt examples/support_tickets.jsonl
    ipt adapt questions.csv --name triage --input-column question --output-column team
    ipt adapt topics.csv --label-separator ";"
    ipt adapt export.xlsx --dry-run
    ipt adapt big.jsonl --no-wait --json
    """
    from app.cli.client import ServiceClient
    from app.cli.progress import adaptation_progress
    from app.cli.upload import print_check, send_file, task_name

    how = {"input_column": input_column, "output_column": output_column, "charset": charset}
    how |= {"kind": kind, "label_separator": label_separator}
    with ServiceClient(url, api_key()) as client:
        if dry_run:
            check = send_file(client, "/v1/datasets/check", file, how)
            if as_json:
                print_json(check)
            else:
                print_check(results(), file, check)
            return
        adaptation = send_file(client, "/v1/adaptations", file, {"name": name or task_name(file), **how})
        if wait:
            try:
                with adaptation_progress(notices()) as show:
                    adaptation = client.wait(adaptation["id"], show)
            except KeyboardInterrupt:
                notices().print(
                    f"stopped waiting; {adaptation['id']} continues, and `{program()} tasks` shows when it finishes",
                    markup=False,
                    soft_wrap=True,
                )
                raise typer.Exit(130) from None
    if as_json:
        print_json(adaptation)
    if adaptation["state"] in ("failed", "cancelled"):
        detail = adaptation.get("error") or {}
        raise CliError(f"{adaptation['id']} {adaptation['state']}: {detail.get('message', 'no reason was given')}")
    if not as_json:
        _print_adaptation(results(), file, adaptation)


def predict(
    task: Annotated[str, typer.Argument(help="Id of a task, or its name: the newest adapted task of that name.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts. Default: the lines of standard input.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Answer no label with a lower score.")] = None,
    min_in_scope: Annotated[
        float | None, typer.Option(help="Answer no label for a text with a lower probability of having one.")
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Predict labels or texts with an adapted task.

    \b
    ipt predict support_tickets "where is my parcel?" "I was charged twice"
    ipt predict support_tickets --min-in-scope 0.5 "what a lovely day"
    ipt predict tsk_5f0c… < new_messages.txt
    """
    from app.cli.client import ServiceClient

    inputs = texts or lines_from_stdin()
    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        answer = client.predict(task_id, inputs, without_none(min_score=min_score, min_in_scope=min_in_scope))
    if as_json:
        print_json(answer)
    else:
        console = results()
        console.print(predictions_table(inputs, answer["predictions"], console.width))


def generate(
    task: Annotated[str, typer.Argument(help="Id of a task, or its name: the newest task of that name.")],
    text: Annotated[str | None, typer.Argument(help="The input. Default: standard input.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate. Default: 64.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature. Default: greedy decoding.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the most likely tokens up to this total probability.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many most likely tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling; the same seed gives the same text.")] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beam search with this many beams.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this string; repeat for several.")] = None,
    json_schema: Annotated[
        typer.FileText | None, typer.Option(help="File with a JSON schema that the text fits.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Version of the task. Default: the newest.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Generate a text with a task and print it while it is generated. Needs a text-to-text backbone.

    \b
    ipt generate replies "The parcel never came"
    ipt generate replies --temperature 0.7 --seed 7 < message.txt
    ipt generate orders --json-schema order.json < mail.txt
    """
    from app.cli.client import ServiceClient

    body: dict[str, Any] = {"input": text_from_stdin() if text is None else text}
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "num_beams": num_beams,
        "stop": stop or None,
        "version": version,
    }
    body |= {name: value for name, value in options.items() if value is not None}
    if json_schema is not None:
        body["format"] = {"json_schema": _read_schema(json_schema)}
    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        if as_json:
            print_json(client.generate(task_id, body))
            return
        for piece in client.generate_pieces(task_id, body):
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")


def _read_schema(file: typer.FileText) -> dict[str, Any]:
    try:
        schema = json.load(file)
    except (ValueError, RecursionError) as error:
        raise CliError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise CliError(f"{file.name} must hold a JSON object, the schema")
    return schema


commands = typer.Typer(help="List the tasks of the service, and choose which version of a task answers.")


@commands.callback(invoke_without_command=True)
def tasks(context: typer.Context, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List the tasks of the service.

    \b
    ipt tasks
    ipt tasks --json | jq '.data[].id'
    ipt tasks retune --all
    """
    if context.invoked_subcommand is not None:
        return
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        listed = client.tasks()
    if as_json:
        print_json({"object": "list", "data": listed, "has_more": False})
        return
    if not listed:
        notices().print(f"no tasks yet; `{program()} adapt FILE` creates one", markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "version", "kind", "labels"):
        table.add_column(heading, overflow="ellipsis", no_wrap=heading in ("id", "version"))
    for task in listed:
        newest = task["versions"][-1] if task["versions"] else {}
        labels = newest.get("labels", [])
        table.add_row(
            task["id"],
            Text(task["name"]),
            str(newest.get("version", "–")),
            newest.get("kind", "–"),
            Text(", ".join(labels[:6]) + (f", … ({len(labels)})" if len(labels) > 6 else "")),
        )
    results().print(table)


@commands.command()
def retune(
    names: Annotated[list[str] | None, typer.Argument(help="Ids or names of tasks.", metavar="[TASK]…")] = None,
    every: Annotated[bool, typer.Option("--all", help="All tasks that are not in the current subspace.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Tune tasks again, in the service's current subspace, from their stored examples, as further versions.

    An upgrade may bring another default subspace. Tasks are answered in the old one until they are tuned again.

    \b
    ipt tasks retune support_tickets
    ipt tasks retune --all
    """
    from app.cli.client import ServiceClient
    from app.cli.progress import adaptation_progress

    if every == bool(names):
        raise CliError("name the tasks to tune again, or give --all")
    with ServiceClient(url, api_key()) as client:
        if every:
            current = client.loaded_subspace()
            if current is None:
                raise CliError("the service has not loaded its subspace yet: try again in a few seconds")
            task_ids = [task["id"] for task in client.tasks() if _newest_subspace(task) not in (None, current)]
        else:
            task_ids = [resolve_task(client, name) for name in names or ()]
        if not task_ids:
            notices().print("every task is in the current subspace")
        for number, task_id in enumerate(task_ids, start=1):
            adaptation = client.retune(task_id)
            with adaptation_progress(notices()) as show:
                adaptation = client.wait(adaptation["id"], show)
            if adaptation["state"] != "succeeded":
                detail = adaptation.get("error") or {}
                raise CliError(f"{task_id}: {adaptation['state']}: {detail.get('message', 'no reason was given')}")
            metrics = adaptation["metrics"]
            results().print(
                f"{number} of {len(task_ids)}: {task_id} version {adaptation['task_version']}, "
                f"{score(metrics.get('score'))}",
                markup=False,
                soft_wrap=True,
            )


def _newest_subspace(task: dict[str, Any]) -> str | None:
    """Return the subspace of a task's newest version; None if it has no version yet."""
    versions = task.get("versions") or []
    return versions[-1]["subspace_id"] if versions else None


def predictions_table(inputs: list[str], predictions: list[dict[str, Any]], width: int) -> Table:
    """Return a table with the answer, the score and as much of the text as fits, for each text."""
    rows = [(*answer_of(prediction), one_line(text)) for text, prediction in zip(inputs, predictions, strict=True)]
    heading = "answer"
    answer_width = min(max(cell_len(answer) for answer in (heading, *(answer for answer, *_ in rows))), width // 2)
    table = Table(box=None, pad_edge=False)
    table.add_column(heading, max_width=answer_width)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True, overflow="ellipsis", max_width=width - answer_width - _SCORE_AND_GAPS)
    for answer, confidence, text in rows:
        table.add_row(Text(answer), confidence, Text(text))
    return table


def one_line(text: str) -> str:
    """Replace line breaks by spaces, for a table cell that truncates."""
    return " ".join(text.split())


def answer_of(prediction: dict[str, Any]) -> tuple[str, str]:
    """Return a prediction's label, labels or text, and the formatted score of the first label, empty for a text."""
    label, labels = prediction.get("label"), prediction.get("labels")
    scores = prediction.get("scores") or {}
    if prediction.get("reason"):
        return f"– ({prediction['reason'].replace('_', ' ')})", ""
    if labels is not None:
        return (", ".join(labels), score(scores.get(labels[0]))) if labels else ("–", "")
    if label is None:
        return str(prediction.get("text") or ""), ""
    return str(label), score(scores.get(label))


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Return a table of an adaptation's score, and of the scores without tuning on the same examples."""
    measure = str(metrics.get("score_metric", "score")).replace("_", " ")
    how = {
        "held_back": f"{measure} on {metrics.get('held_back')} held-back examples",
        "out_of_fold": f"{measure} on {metrics.get('held_back')} examples, each held back once",
    }.get(str(metrics.get("score_source")), measure)
    table = score_table()
    table.add_row("this task", f"[bold]{score(metrics.get('score'))}[/bold]", how)
    for name, heading in (("token_f1", "its token F1"), ("rouge_l", "its ROUGE-L")):
        if name in metrics:
            table.add_row(heading, score(metrics[name]), "similarity to the expected texts")
    table.add_row("before tuning", score(metrics.get("start_score")), "the vector at which tuning started")
    if metrics.get("baseline"):
        table.add_row("plain baseline", score(metrics.get("baseline_score")), Text(str(metrics["baseline"])))
    return table


def resolve_task(client: "ServiceClient", name_or_id: str) -> str:
    """Return the id of the named task; if several tasks have this name, print which one is used."""
    task_id, *others = client.task_ids(name_or_id)
    if others:
        notices().print(
            f"{len(others) + 1} tasks are named {name_or_id!r}: using {task_id}, the newest adapted one; "
            f"`{program()} tasks` lists them",
            markup=False,
            soft_wrap=True,
        )
    return task_id


def _print_adaptation(console: Console, file: Path, adaptation: dict[str, Any]) -> None:
    from app.cli.upload import described, print_warnings

    progress = adaptation["progress"]
    after = f" after {progress['step']} of {progress['steps']} steps" if adaptation["state"] == "succeeded" else ""
    console.print(
        f"task [bold]{adaptation['task_id']}[/bold] version {adaptation['task_version']}: {adaptation['state']}{after}"
    )
    if adaptation.get("metrics"):
        console.print(metrics_table(adaptation["metrics"]))
    if adaptation.get("source"):
        console.print(Text(described(adaptation["source"]["file"]), style="dim"), soft_wrap=True)
    print_warnings(console, file, adaptation.get("warnings") or [])
    if adaptation["state"] == "succeeded":
        console.print(Text(f'try: {program()} predict {adaptation["task_id"]} "some text"'), soft_wrap=True)
    else:
        console.print(
            f"queued as {adaptation['id']}; `{program()} tasks` shows when it finishes",
            markup=False,
            soft_wrap=True,
        )
