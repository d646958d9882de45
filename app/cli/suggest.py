"""`ipt suggest`: which unlabelled texts to label next."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, AsJson, Url, api_key
from app.cli.output import CliError, print_json, results
from app.cli.standard_input import lines_from_file, lines_from_stdin
from app.cli.tasks import one_line, resolve_task


def suggest(
    task: Annotated[str, typer.Argument(help="Id of a task, or its name.", metavar="TASK")],
    file: Annotated[
        Path | None, typer.Argument(help="Text file with a text per line. Default: standard input.", metavar="FILE")
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
    """
    from app.cli.client import ServiceClient

    texts = lines_from_stdin() if file is None else lines_from_file(file, charset)
    if not texts:
        raise CliError(f"{file or 'standard input'} has no text: expected a text per line")
    with ServiceClient(url, api_key()) as client:
        answer = client.suggest(resolve_task(client, task), texts, count)
    if as_json:
        print_json(answer)
        return
    for suggestion in answer["suggestions"]:
        results().print(one_line(texts[suggestion["index"]]), markup=False, soft_wrap=True)
