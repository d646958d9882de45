"""`ipt settings`: the effective settings, and which of them the environment sets."""

import os

from rich.table import Table
from rich.text import Text

from app.cli.options import AsJson
from app.cli.output import print_json, results


def settings(as_json: AsJson = False) -> None:
    """Print the effective settings, with secrets masked. The environment variable of the same name sets each one.

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
    for name, value in described.items():
        from_environment = name in {variable.upper() for variable in os.environ}
        style = "bold" if from_environment else ""
        table.add_row(Text(name, style=style), Text("–" if value is None else str(value), style=style))
    results().print(table)
