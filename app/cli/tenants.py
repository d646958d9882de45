"""`ipt tenants`: list, export, delete and switch tenants directly in the database."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from app.cli.database import database_session
from app.cli.options import AsJson
from app.cli.output import CliError, check_file, notices, print_json, results

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

commands = typer.Typer(
    no_args_is_help=True,
    help="List, export and delete tenants, and switch the keeping of texts, in the database of IPT_DATABASE_URL. "
    "Without it, in the embedded database, which needs a running `ipt serve`.",
)


class Switch(StrEnum):
    """Whether texts are kept."""

    ON = "on"
    OFF = "off"


Name = Annotated[str, typer.Argument(help="The tenant, as `ipt tenants list` shows it.", metavar="TENANT")]


@commands.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants and how much each has stored.

    \b
    ipt tenants list
    ipt tenants list --json | jq -r '.data[].id'
    """
    from app.tenants import repository

    with database_session() as session:
        tenants = repository.listed(session)
    if as_json:
        data = [
            {
                "id": tenant.id,
                "object": "tenant",
                "keys": tenant.keys,
                "tasks": tenant.tasks,
                "adaptations": tenant.adaptations,
                "bytes": tenant.bytes,
                "keep_texts": tenant.keep_texts,
                "created_at": tenant.created_at.isoformat(timespec="seconds"),
            }
            for tenant in tenants
        ]
        print_json({"object": "list", "data": data, "has_more": False})
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("tenant")
    for heading in ("keys", "tasks", "adaptations", "bytes"):
        table.add_column(heading, justify="right")
    table.add_column("keeps texts")
    for tenant in tenants:
        counts = (tenant.keys, tenant.tasks, tenant.adaptations, tenant.bytes)
        table.add_row(Text(tenant.id), *(f"{count:,}" for count in counts), "yes" if tenant.keep_texts else "no")
    results().print(table)


@commands.command()
def export(
    tenant: Name,
    output: Annotated[Path, typer.Argument(help="File to write, a JSON object per row.", metavar="FILE.jsonl")],
) -> None:
    """Write every row that belongs to a tenant to a file: tasks, vectors, datasets, adaptations, files, batches, usage.

    Each line is {"table": …, "row": {…}}; bytes are in hexadecimal. API keys are listed without their hashes.

    \b
    ipt tenants export acme acme.jsonl
    """
    from app.tenants import repository

    check_file(output, ".jsonl")
    count = 0
    with database_session() as session:
        _check_exists(session, tenant)
        with output.open("w", encoding="utf-8") as file:
            for table, row in repository.rows(session, tenant):
                file.write(json.dumps({"table": table, "row": row}, ensure_ascii=False) + "\n")
                count += 1
    notices().print(Text(f"{output}: {count:,} rows of tenant {tenant}"), soft_wrap=True)


@commands.command()
def delete(
    tenant: Name,
    confirmed: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a tenant with everything that belongs to it, including its API keys.

    \b
    ipt tenants export acme acme.jsonl && ipt tenants delete acme
    """
    from app.tenants import repository

    with database_session() as session:
        _check_exists(session, tenant)
        if not confirmed:
            if not sys.stdin.isatty():
                raise CliError("the deletion must be confirmed: give --yes")
            typer.confirm(f"Delete tenant {tenant} with all its tasks and examples?", abort=True, err=True)
        repository.remove(session, tenant)
    notices().print(Text(f"tenant {tenant} is deleted"), soft_wrap=True)


@commands.command("keep-texts")
def keep_texts(
    tenant: Name,
    switch: Annotated[Switch, typer.Argument(help="`off` also deletes the texts that were kept.")],
) -> None:
    """Keep the texts that a tenant's tasks are asked, so that `ipt suggest TASK` can choose among them; off by default.

    At most 10,000 texts and 8 MiB of a task are kept, each for IPT_KEEP_TEXTS_DAYS (30 days).

    \b
    ipt tenants keep-texts acme on
    """
    from app.tenants import repository

    with database_session() as session:
        _check_exists(session, tenant)
        repository.switch_kept_texts(session, tenant, on=switch is Switch.ON)
    state = "texts are kept from now on" if switch is Switch.ON else "no text is kept, and the kept texts are deleted"
    notices().print(Text(f"tenant {tenant}: {state}"), soft_wrap=True)


def _check_exists(session: "Session", tenant: str) -> None:
    from app.tenants import repository

    if not repository.exists(session, tenant):
        raise CliError(f"there is no tenant {tenant!r}; `ipt tenants list` lists all tenants")
