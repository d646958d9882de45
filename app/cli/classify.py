"""`ipt classify`: label texts by the examples of a file, without creating a task."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, Url, api_key
from app.cli.output import notices, print_json, results
from app.cli.standard_input import lines_from_stdin
from app.cli.tasks import predictions_table


def classify(
    file: Annotated[
        Path, typer.Argument(help="JSON lines, CSV, Excel or other file with one example per row.", metavar="FILE")
    ],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts. Default: the lines of standard input.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Label texts by the examples of a file in one call: nothing is tuned or stored.

    The first call takes a second or two; the service keeps the examples in memory for the next one. `ipt adapt` with
    the same file creates a task, which is more accurate and answers by its name.

    \b
    ipt classify examples/support_tickets.jsonl "where is my parcel?" "I was charged twice"
    ipt classify examples.csv < new_messages.txt
    """
    from app.cli.client import ServiceClient
    from app.cli.dataset_file import read_dataset

    examples = read_dataset(file)
    inputs = texts or lines_from_stdin()
    with ServiceClient(url, api_key()) as client:
        answer = client.classify(examples, inputs)
    if as_json:
        print_json(answer)
        return
    for warning in answer["warnings"]:
        notices().print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    console = results()
    console.print(predictions_table(inputs, answer["predictions"], console.width))
