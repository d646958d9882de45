"""The command line `ipt`: runs the service, and talks to one."""

import os
import signal
import sys


def main() -> None:
    """Entry point of `ipt`: exit code 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C; an error is one line on stderr."""
    try:
        # Until the command itself runs there is nothing to put away, and an exception could get lost in an import.
        interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if interruptible:
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        from app.cli.output import take_over_stdout
        from app.cli.root import run

        take_over_stdout()
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("app", "ipt", "worker", "migrations"):
            raise
        sys.stderr.write(
            f"error: this command needs the package {error.name!r}, which is not installed: "
            "pip install 'intrinsic-prompt-tuning[service]'\n"
        )
        sys.exit(1)
