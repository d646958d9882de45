"""`ipt keys`: create, list and revoke API keys directly in the database."""

import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.database import database_session
from app.cli.options import AsJson
from app.cli.output import CliError, notices, print_json, results
from app.settings import DEFAULT_TENANT

if TYPE_CHECKING:
    from app.db.models import ApiKey

commands = typer.Typer(
    no_args_is_help=True,
    help="Create, list and revoke API keys in the database of IPT_DATABASE_URL. Without it, in the embedded database, "
    "which needs a running `ipt serve`.",
)


class Scope(StrEnum):
    """What a key permits. Equals `app.db.models.Scope`, without importing the database."""

    ADAPT = "adapt"
    PREDICT = "predict"
    ADMIN = "admin"


_LIFETIME = re.compile(r"([1-9]\d{0,3})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _lifetime(text: str) -> timedelta:
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration: expected a number and a unit, like 90m, 12h, 30d or 52w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _readable(text: str | None) -> str | None:
    if text is not None and not (text.strip() and text.isprintable()):
        raise typer.BadParameter("must be printable text, and not empty")
    return text


@commands.command()
def create(
    tenant: Annotated[
        str, typer.Option(help="The tenant of the key; a new tenant is added.", callback=_readable)
    ] = DEFAULT_TENANT,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What the key permits; repeat for several. Default: adapt and predict."),
    ] = None,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(
            help="Lifetime, like 12h or 30d. Default: valid until it is revoked.",
            parser=_lifetime,
            metavar="DURATION",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name to recognize the key by.", callback=_readable)] = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key and print only the key on stdout. It is shown once: the database keeps its hash.

    \b
    ipt keys create --tenant acme --name "nightly import" --expires-in 90d
    KEY=$(ipt keys create --scope predict)
    """
    from app.api_keys import service

    scopes = [each.value for each in scope or ()] or service.DEFAULT_SCOPES
    with database_session() as session:
        row, key = service.issue(session, tenant, scopes=scopes, lifetime=expires_in, name=name)
        shown = _view(row)
    until = shown["expires_at"] or "it is revoked"
    notices().print(
        Text(f"{shown['id']} of tenant {tenant}: {', '.join(shown['scopes'])}; valid until {until}"), soft_wrap=True
    )
    if as_json:
        print_json(shown | {"key": key})
    else:
        sys.stdout.write(f"{key}\n")


@commands.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None, as_json: AsJson = False
) -> None:
    """List the keys of the database, including expired and revoked ones. IPT_API_KEY is not listed.

    \b
    ipt keys list --tenant acme
    ipt keys list --json | jq -r '.data[] | select(.state == "valid").id'
    """
    from app.api_keys import service

    with database_session() as session:
        keys = [_view(row) for row in service.listed(session, tenant)]
    if as_json:
        print_json({"object": "list", "data": keys, "has_more": False})
        return
    if not keys:
        notices().print("no keys; `ipt keys create` creates one")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "tenant", "key", "scopes", "state", "until", "name"):
        table.add_column(heading, overflow="ellipsis", no_wrap=heading == "id")
    for key in keys:
        until = (key["expires_at"] or "–")[:10]
        row = (key["id"], key["tenant"], f"{key['prefix']}…", ", ".join(key["scopes"]), key["state"], until)
        table.add_row(*map(Text, row), Text(key["name"] or ""))
    results().print(table)


@commands.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id shown by `ipt keys list`, not the key.", metavar="KEY_ID")],
    as_json: AsJson = False,
) -> None:
    """Revoke an API key: its next request is rejected.

    \b
    ipt keys revoke key_8d3k5m1p9r7t2v4x6z0b1c3f
    """
    from app.api_keys import service

    with database_session() as session:
        row = service.revoke(session, key_id)
        shown = None if row is None else _view(row)
    if shown is None:
        raise CliError("there is no key with this id; `ipt keys list` lists all keys")
    if as_json:
        print_json(shown)
    else:
        notices().print(Text(f"{shown['id']} of tenant {shown['tenant']} is revoked"), soft_wrap=True)


def _view(row: "ApiKey") -> dict[str, Any]:
    expired = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
    return {
        "id": row.id,
        "object": "api_key",
        "tenant": row.tenant_id,
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes,
        "state": "revoked" if row.revoked_at else "expired" if expired else "valid",
        **{at: _iso(getattr(row, at)) for at in ("created_at", "expires_at", "revoked_at")},
    }


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="seconds")
