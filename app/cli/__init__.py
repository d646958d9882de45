"""The command line `ipt`: runs the service and sends requests to a running one."""

import logging
import os
import signal
import sys


def main() -> None:
    """Run `ipt` and exit: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C. An error is one line on stderr."""
    try:
        # Imports may swallow a KeyboardInterrupt, and before the command runs there is nothing to clean up.
        interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if interruptible:
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        from app.cli.output import take_over_stdout
        from app.cli.root import run

        take_over_stdout()
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
        if sys.argv[1:2] == ["serve"]:
            _end_at_once(code)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("app", "ipt", "worker", "migrations"):
            raise
        sys.stderr.write(
            f"error: this command needs the package {error.name!r}, which is not installed; run: "
            "pip install 'intrinsic-prompt-tuning[service]'\n"
        )
        sys.exit(1)


def _end_at_once(code: int) -> None:
    """End the process without freeing its objects, which takes two seconds after a model was loaded.

    The service has stopped by then: its threads, its worker and its database have ended, and `run` has flushed stdout.
    """
    logging.shutdown()
    os._exit(code)
