"""`ipt webhooks`: register, list, test and delete the receivers that are told when a job or a batch has ended."""

import sys
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, Url, api_key
from app.cli.output import CliError, notices, print_json, program, results

commands = typer.Typer(
    no_args_is_help=True,
    help="Register URLs that get a signed message when a fine-tuning job or a batch has ended, and test them.",
)

WebhookId = Annotated[str, typer.Argument(help="The id shown by `ipt webhooks list`.", metavar="WEBHOOK_ID")]


@commands.command()
def create(
    receiver: Annotated[str, typer.Argument(help="The URL that gets the messages.", metavar="RECEIVER")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="An event, such as fine_tuning.job.succeeded; repeat for several. Default: all events."),
    ] = None,
    name: Annotated[str, typer.Option(help="A name to recognize the webhook by.")] = "webhook",
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Register a receiver and print only its signing secret on stdout. The secret is shown once.

    A receiver verifies messages with it, for example by openai.webhooks.unwrap or a library of Standard Webhooks. A
    private address needs IPT_WEBHOOK_PRIVATE_NETWORKS in the settings of the service.

    \b
    ipt webhooks create https://example.com/hook --event fine_tuning.job.succeeded
    SECRET=$(ipt webhooks create https://example.com/hook)
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        webhook = client.create_webhook(receiver, name, event)
    _print_secret(webhook, f"{webhook['id']} sends {', '.join(webhook['event_types'])} to {webhook['url']}", as_json)


@commands.command("list")
def list_webhooks(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """List the webhooks, and why the last message of each failed.

    \b
    ipt webhooks list
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        webhooks = client.webhooks()
    if as_json:
        print_json({"object": "list", "data": webhooks, "has_more": False})
        return
    if not webhooks:
        notices().print(f"no webhooks; `{program()} webhooks create RECEIVER` registers one", markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "receiver", "events", "last error"):
        table.add_column(heading, overflow="fold" if heading == "last error" else "ellipsis", no_wrap=heading == "id")
    for each in webhooks:
        cells = (each["id"], each["name"], each["url"], ", ".join(each["event_types"]), each["last_error"] or "–")
        table.add_row(*map(Text, cells))
    results().print(table)


@commands.command("test")
def send_test(
    webhook_id: WebhookId,
    event: Annotated[str, typer.Option(help="The event to send a sample of.")] = "fine_tuning.job.succeeded",
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Send a sample message, and fail unless the receiver accepts it.

    \b
    ipt webhooks test wh_8d3k5m1p9r7t2v4x6z0b1c3f
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        outcome = client.test_webhook(webhook_id, event)
    status = outcome["status_code"]
    if as_json:
        print_json(outcome)
    if not 200 <= status < 300:
        raise CliError(f"the receiver answered with status {status}: expected 200 to 299")
    if not as_json:
        notices().print(f"the receiver answered with status {status}")


@commands.command("rotate-secret")
def rotate_secret(
    webhook_id: WebhookId,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Sign with the old secret too for 24 hours.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Replace the signing secret of a webhook, and print only the new one on stdout.

    \b
    SECRET=$(ipt webhooks rotate-secret wh_8d3k5m1p9r7t2v4x6z0b1c3f --keep-old)
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        webhook = client.rotate_webhook_secret(webhook_id, keep_former=keep_old)
    until = "expires in 24 hours" if keep_old else "is no longer used"
    _print_secret(webhook, f"{webhook['id']} has a new secret; the old one {until}", as_json)


@commands.command()
def delete(webhook_id: WebhookId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Delete a webhook, with the messages that wait for it.

    \b
    ipt webhooks delete wh_8d3k5m1p9r7t2v4x6z0b1c3f
    """
    from app.cli.client import ServiceClient

    with ServiceClient(url, api_key()) as client:
        deleted = client.delete_webhook(webhook_id)
    if as_json:
        print_json(deleted)
    else:
        notices().print(Text(f"{deleted['id']} is deleted"), soft_wrap=True)


def _print_secret(webhook: dict[str, Any], notice: str, as_json: bool) -> None:
    notices().print(Text(notice), soft_wrap=True)
    if as_json:
        print_json(webhook)
    else:
        sys.stdout.write(f"{webhook['signing_secret']}\n")
