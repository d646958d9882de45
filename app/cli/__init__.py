"""The command line `ipt`: runs the service, and talks to one."""

import sys


def main() -> None:
    """Entry point of `ipt`: exit code 0 done, 1 failed, 2 wrong usage; an error is one line on stderr."""
    try:
        from app.cli.root import run

        sys.exit(run())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("app", "ipt", "worker", "migrations"):
            raise
        sys.stderr.write(
            f"error: this command needs the package {error.name!r}, which is not installed: "
            "pip install 'intrinsic-prompt-tuning[service]'\n"
        )
        sys.exit(1)
