"""`ipt classify`: label texts by the examples of a file, without creating a task."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from app.cli.options import DEFAULT_URL, AsJson, Url, api_key
from app.cli.output import CliError, notices, print_json, results
from app.cli.standard_input import lines_from_stdin
from app.cli.tasks import predictions_table


def classify(
    file: Annotated[
        Path, typer.Argument(help="JSON lines, CSV, Excel or other file with one example per row.", metavar="FILE")
    ],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts. Default: the lines of standard input.")] = None,
    input_column: Annotated[str | None, typer.Option(help="Column of the input texts.")] = None,
    output_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    charset: Annotated[str | None, typer.Option(help="Charset of a file that is not in UTF-8.")] = None,
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
    from app.cli.client import ServiceClient, ServiceError
    from app.cli.dataset_file import read_dataset, rows_of, with_lines

    examples = read_dataset(file, input_column=input_column, output_column=output_column, charset=charset)
    inputs = texts or lines_from_stdin()
    with ServiceClient(url, api_key()) as client:
        try:
            answer = client.classify(rows_of(examples), inputs)
        except ServiceError as error:
            raise CliError(with_lines(str(error), file, examples)) from error
    if as_json:
        print_json(answer)
        return
    for warning in answer["warnings"]:
        notices().print(Text(f"warning: {with_lines(warning, file, examples)}", style="yellow"), soft_wrap=True)
    console = results()
    console.print(predictions_table(inputs, answer["predictions"], console.width))
