"""`ipt evaluate` and `ipt tasks report`: what a task answers right and wrong."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, LabelSeparator, Url, api_key
from app.cli.output import print_json, results, score, score_table
from app.cli.tasks import one_line, resolve_task

_MOST_LABELS = 20
_MOST_WRONG = 20
_Task = Annotated[str, typer.Argument(help="Id of a task, or its name: the newest adapted task of that name.")]


def evaluate(
    task: _Task,
    file: Annotated[
        Path, typer.Argument(help="JSON lines, CSV, Excel or other file with one test row per line.", metavar="FILE")
    ],
    version: Annotated[
        int | None, typer.Option(help="Version of the task. Default: the one that answers.", min=1)
    ] = None,
    compare_with: Annotated[int | None, typer.Option(help="Another version, on the same rows.", min=1)] = None,
    input_column: Annotated[str | None, typer.Option(help="Column of the input texts.")] = None,
    output_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    charset: Annotated[str | None, typer.Option(help="Charset of a file that is not in UTF-8.")] = None,
    label_separator: LabelSeparator = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure a task on a test set: accuracy, every label, the calibration of its scores, and what it gets wrong.

    Rows of labels that the task does not know are counted and not measured. Nothing is stored.

    \b
    ipt evaluate support_tickets test.csv
    ipt evaluate support_tickets test.csv --version 2 --compare-with 1
    ipt evaluate support_tickets test.csv --json | jq '.report.macro_f1'
    """
    from app.cli.client import ServiceClient
    from app.cli.upload import send_file

    numbers = {name: None if number is None else str(number)
               for name, number in (("version", version), ("compare_with", compare_with))}  # fmt: skip
    columns = {"input_column": input_column, "output_column": output_column, "charset": charset}
    columns |= {"label_separator": label_separator}
    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        path = f"/v1/tasks/{task_id}/evaluate"
        columns |= {"kind": "multilabel" if client.is_multilabel(task_id) else None}
        answer = send_file(client, path, file, columns | numbers, timeout_seconds=None)  # may take minutes
    if as_json:
        print_json(answer)
        return
    console = results()
    console.print(f"task [bold]{task_id}[/bold] version {answer['task_version']}, on {file}", soft_wrap=True)
    _print_report(console, answer["report"], "test rows")
    if answer["comparison"] is not None:
        _print_comparison(console, answer["task_version"], answer["comparison"])


def report(
    task: _Task,
    version: Annotated[
        int | None, typer.Option(help="Version of the task. Default: the one that answers.", min=1)
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Report what a task gets right and wrong on the examples that measured it while it was tuned.

    No answer comes from a classifier that was fitted to the answered example. `ipt evaluate` does the same for a test
    set.

    \b
    ipt tasks report support_tickets
    ipt tasks report support_tickets --version 1 --json
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        answer = client.report(task_id, version or client.answering_version(task_id))
    if as_json:
        print_json(answer)
        return
    console = results()
    console.print(f"task [bold]{task_id}[/bold] version {answer['task_version']}", soft_wrap=True)
    how = {"out_of_fold": "examples, each held back once", "held_back": "held-back examples"}[answer["source"]]
    _print_report(console, answer["report"], how)
    _print_doubts(console, answer)


def _print_doubts(console: Console, answer: dict[str, Any]) -> None:
    """Print the examples whose labels are probably wrong."""
    for each in answer["suspects"][:_MOST_WRONG]:
        rather = each["likely_label"] if each["belongs"] else f"not {each['likely_label']}"
        line = f"perhaps a wrong label: {_shown(each['output'])}, rather {rather}: {one_line(each['input'])}"
        console.print(Text(line, style="yellow"), no_wrap=True, overflow="ellipsis")
    for pair in answer["near_duplicates"][:_MOST_WRONG]:
        texts = " / ".join(f"{one_line(each['input'])} ({_shown(each['output'])})" for each in pair)
        console.print(Text(f"hardly differ: {texts}", style="yellow"), no_wrap=True, overflow="ellipsis")


def _print_report(console: Console, report: dict[str, Any], rows: str) -> None:
    summary = {"classification": _summary, "multilabel": _multilabel_summary, "text2text": _text_summary}
    console.print(summary[report["kind"]](report, rows))
    if report["kind"] == "text2text":
        _print_wrong(console, report)
        return
    console.print()
    console.print(_labels(report))
    if len(report["labels"]) > _MOST_LABELS:
        console.print(f"and {len(report['labels']) - _MOST_LABELS} more labels; --json has all", style="dim")
    if report["unknown_labels"]:
        unknown = ", ".join(f"{label} ({count})" for label, count in report["unknown_labels"].items())
        console.print(Text(f"labels that the task does not know, not measured: {unknown}", style="yellow"))
    _print_wrong(console, report)


def _print_wrong(console: Console, report: dict[str, Any]) -> None:
    if report["wrong"]:
        console.print()
        console.print(_wrong(report, console.width))
        if report["wrong_count"] > _MOST_WRONG:
            console.print(f"and {report['wrong_count'] - _MOST_WRONG} more; --json has more of them", style="dim")


def _summary(report: dict[str, Any], rows: str) -> Table:
    table = score_table()
    interval = f"95 % interval {score(report['accuracy_low'])} to {score(report['accuracy_high'])}"
    table.add_row("accuracy", f"[bold]{score(report['accuracy'])}[/bold]", f"{interval}, on {report['rows']} {rows}")
    table.add_row("chance", score(report["chance"]), "always answering with the most frequent label")
    table.add_row("balanced accuracy", score(report["balanced_accuracy"]), "mean recall of the labels")
    table.add_row("macro F1", score(report["macro_f1"]), "mean of the labels")
    table.add_row("weighted F1", score(report["weighted_f1"]), "mean weighted by support")
    table.add_row("calibration error", score(report["calibration_error"]), "by how much the scores are off")
    return table


def _multilabel_summary(report: dict[str, Any], rows: str) -> Table:
    table = score_table()
    interval = f"{score(report['subset_accuracy_low'])} to {score(report['subset_accuracy_high'])}"
    table.add_row("micro F1", f"[bold]{score(report['micro_f1'])}[/bold]", f"of all labels, on {report['rows']} {rows}")
    table.add_row("chance", score(report["chance"]), "the best labels that are the same for every text")
    table.add_row("macro F1", score(report["macro_f1"]), "mean of the labels")
    table.add_row("samples F1", score(report["samples_f1"]), "mean of the texts")
    table.add_row("all labels right", score(report["subset_accuracy"]), f"of the texts; 95 % interval {interval}")
    table.add_row("calibration error", score(report["calibration_error"]), "by how much the scores are off")
    return table


def _text_summary(report: dict[str, Any], rows: str) -> Table:
    table = score_table()
    interval = f"95 % interval {score(report['exact_match_low'])} to {score(report['exact_match_high'])}"
    exact = f"[bold]{score(report['exact_match'])}[/bold]"
    table.add_row("exactly right", exact, f"{interval}, on {report['rows']} {rows}")
    table.add_row("token F1", score(report["token_f1"]), "words in common with the expected text")
    table.add_row("ROUGE-L", score(report["rouge_l"]), "words in the same order")
    return table


def _labels(report: dict[str, Any]) -> Table:
    """Return a table of the labels, worst F1 first, each with the label that it is most often taken for."""
    table = Table(box=None, pad_edge=False)
    table.add_column("label", overflow="ellipsis", max_width=30)
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right")
    confusion = report.get("confusion")
    if confusion:
        table.add_column("taken for", overflow="ellipsis", max_width=30)
    names = [each["label"] for each in report["labels"]]
    order = sorted(range(len(names)), key=lambda c: (report["labels"][c]["f1"] is None, report["labels"][c]["f1"]))
    for c in order[:_MOST_LABELS]:
        each = report["labels"][c]
        values = (score(each["precision"]), score(each["recall"]), score(each["f1"]), str(each["support"]))
        cells: list[Text | str] = [Text(each["label"]), *values]
        if confusion:
            others = [(count, other) for other, count in enumerate(confusion[c]) if other != c and count]
            cells.append(Text(f"{names[max(others)[1]]} ({max(others)[0]})" if others else ""))
        table.add_row(*cells)
    return table


def _wrong(report: dict[str, Any], width: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("expected", overflow="ellipsis", max_width=22)
    table.add_column("answered", overflow="ellipsis", max_width=22)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True, overflow="ellipsis", max_width=max(20, width - 58))
    for each in report["wrong"][:_MOST_WRONG]:
        text = Text(one_line(each["input"]))
        table.add_row(*(Text(_shown(each[side])) for side in ("expected", "predicted")), _sureness(each), text)
    return table


def _shown(answer: str | list[str]) -> str:
    return one_line(answer) if isinstance(answer, str) else ", ".join(answer) or "–"


def _sureness(wrong: dict[str, Any]) -> str:
    """Return how sure the task is of a wrong answer; of labels, of the clearest one."""
    if "scores" not in wrong:
        return score(wrong.get("predicted_score", wrong.get("confidence")))
    return score(max(p if label in wrong["predicted"] else 1 - p for label, p in wrong["scores"].items()))


def _print_comparison(console: Console, version: int, comparison: dict[str, Any]) -> None:
    other = comparison["version"]
    measures = {"classification": "accuracy", "multilabel": "subset_accuracy", "text2text": "exact_match"}
    measure = measures[comparison["report"]["kind"]]
    console.print()
    console.print(
        f"version {other}: {score(comparison['report'][measure])} right. Of {comparison['rows']} rows, only version "
        f"{version} answers {comparison['only_this_right']} right, only version {other} "
        f"{comparison['only_other_right']}.",
        soft_wrap=True,
    )
    verdict = "a real difference" if comparison["p_value"] < 0.05 else "may be chance"
    console.print(f"McNemar's test: p = {comparison['p_value']:.3g}, {verdict}", soft_wrap=True)
