"""Entry point of the console script `ipt` and of `python -m app.cli`: makes the service's packages importable.

A wheel holds `app`, `worker` and `migrations` inside `ipt_service`; a checkout holds them at its root. Either way they
are in the folder that holds this `app`. See docs/decisions/0021-one-namespace-for-the-service.md.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Put the folder of the service's packages on the import path, here and in child processes, and run `ipt`."""
    folder = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, folder)
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join((folder, inherited)) if inherited else folder
    # `python -m worker` must not find a folder `worker` of the current directory first.
    os.environ["PYTHONSAFEPATH"] = "1"

    from app.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
