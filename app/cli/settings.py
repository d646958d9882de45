"""`ipt settings`: the effective settings, and which of them the environment sets."""

import os

from rich.table import Table
from rich.text import Text

from app.cli.options import AsJson
from app.cli.output import print_json, results


def settings(as_json: AsJson = False) -> None:
    """Print the effective settings, with secrets masked. An environment variable of the same name sets each of them.

    \b
    IPT_PORT=9000 ipt settings
    ipt settings --json | jq -r .IPT_DATA_DIR
    """
    from app.settings import Settings

    described = Settings().described()
    if as_json:
        print_json(described)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    from_environment = {name.upper() for name, value in os.environ.items() if value}
    for name, value in described.items():
        style = "bold" if name in from_environment else ""
        table.add_row(Text(name, style=style), Text("–" if value is None else str(value), style=style))
    results().print(table)
