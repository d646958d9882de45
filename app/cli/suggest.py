"""`ipt suggest`: which unlabelled texts to label next."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, AsJson, Url, api_key
from app.cli.output import CliError, print_json, results
from app.cli.standard_input import lines_from_file, piped_lines
from app.cli.tasks import one_line, resolve_task


def suggest(
    task: Annotated[str, typer.Argument(help="Id of a task, or its name.", metavar="TASK")],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Text file with a text per line. Default: standard input; without any, the texts that the service has "
            "kept for the task.",
            metavar="FILE",
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Most texts to suggest.", min=1, max=256)] = 16,
    charset: Annotated[str | None, typer.Option(help="Charset of a file that is not in UTF-8.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the texts that are most useful to label next: uncertain ones that differ from each other.

    \b
    ipt suggest support_tickets new_messages.txt --count 16
    ipt suggest support_tickets < new_messages.txt > to_label.txt
    ipt suggest support_tickets                   # from texts it was asked: see ipt tenants keep-texts
    """
    from app.cli.client import ServiceClient

    texts = piped_lines() if file is None else lines_from_file(file, charset)
    if file is not None and not texts:
        raise CliError(f"{file} has no text: expected a text per line")
    with ServiceClient(url, api_key()) as client:
        answer = client.suggest(resolve_task(client, task), texts or None, count)
    if as_json:
        print_json(answer)
        return
    for suggestion in answer["suggestions"]:
        results().print(one_line(suggestion["text"]), markup=False, soft_wrap=True)
