"""`ipt tasks promote` and `ipt tasks usage`: which version of a task answers, and what it was asked."""

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, Url, api_key, without_none
from app.cli.output import CliError, notices, print_json, results, score
from app.cli.tasks import resolve_task

_SHOWN_ROWS = 200

Task = Annotated[str, typer.Argument(help="Id of a task, or its name.", metavar="TASK")]


class Policy(StrEnum):
    """When a new version answers."""

    ALWAYS = "always"
    IF_BETTER = "if_better"
    MANUAL = "manual"


def promote(
    task: Task,
    version: Annotated[int | None, typer.Argument(help="The version that answers from now on.", min=1)] = None,
    new_versions: Annotated[Policy | None, typer.Option(help="When later versions answer. Default: unchanged.")] = None,
    canary: Annotated[
        int | None, typer.Option(help="Version that answers a share of the requests; 0 for none.", min=0)
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the canary, up to 1.", max=1.0)] = 0.1,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Choose which version of a task answers; an older version to roll back.

    \b
    ipt tasks promote support_tickets 2
    ipt tasks promote support_tickets --new-versions manual
    ipt tasks promote support_tickets --canary 3 --share 0.1
    """
    from app.cli.client import ServiceClient

    changes: dict[str, Any] = {} if new_versions is None else {"promote": new_versions.value}
    if canary is not None:
        changes["canary"] = {"version": canary, "share": share} if canary else None
    if version is None and not changes:
        raise CliError("name the version that answers, or give --new-versions or --canary")
    with ServiceClient(url, api_key()) as client:
        task_id = resolve_task(client, task)
        if version is not None:
            changed = client.promote(task_id, version)
        if changes:
            changed = client.change_task(task_id, changes)
    if as_json:
        print_json(changed)
        return
    trial = changed["canary"]
    results().print(
        f"{task_id}: version {changed['version']} answers"
        + (f", version {trial['version']} {trial['share']:.0%} of the requests" if trial else "")
        + f"; new versions: {changed['promote']}",
        markup=False,
        soft_wrap=True,
    )


def thresholds(
    task: Task,
    min_score: Annotated[
        float | None, typer.Option(help="Lowest score of a label that is answered; 0 for any.", min=0, max=1)
    ] = None,
    min_in_scope: Annotated[
        float | None,
        typer.Option(help="Lowest probability that a text has any label; 0 answers all texts.", min=0, max=1),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Set below which score, or below which probability of any label, a task answers no label.

    They hold for predictions that name none themselves.

    \b
    ipt tasks thresholds support_tickets --min-in-scope 0.5
    ipt tasks thresholds support_tickets --min-score 0.6 --min-in-scope 0
    """
    from app.cli.client import ServiceClient

    changes = without_none(min_score=min_score, min_in_scope=min_in_scope)
    if not changes:
        raise CliError("give --min-score or --min-in-scope")
    with ServiceClient(url, api_key()) as client:
        changed = client.change_task(resolve_task(client, task), changes)
    if as_json:
        print_json(changed)
        return
    named = ", ".join(f"{name} {changed[name] or 0:g}" for name in ("min_score", "min_in_scope"))
    results().print(f"{changed['id']}: {named}", markup=False, soft_wrap=True)


def usage(task: Task, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show how often each version and label of a task answered, by the hour.

    \b
    ipt tasks usage support_tickets
    ipt tasks usage support_tickets --json | jq '.data[].versions'
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        hours = client.usage(resolve_task(client, task))
    if as_json:
        print_json({"object": "list", "data": hours, "has_more": False})
        return
    rows = [
        (f"{hour['hour']:.16}", str(version["version"]), label["label"] or "", str(label["count"]), label["mean_score"])
        for hour in hours
        for version in hour["versions"]
        for label in version["labels"]
    ]
    if not rows:
        notices().print("no predictions were counted in the last 31 days")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("hour (UTC)", "version", "label", "answers", "mean score"):
        table.add_column(heading, justify="right" if heading in ("version", "answers", "mean score") else "left")
    for hour, version, label, count, mean in rows[:_SHOWN_ROWS]:
        table.add_row(hour, version, Text(label), count, score(mean))
    results().print(table)
    if len(rows) > _SHOWN_ROWS:
        notices().print(f"{len(rows) - _SHOWN_ROWS} more rows; --json prints all of them")
