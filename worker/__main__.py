"""`python -m worker`: a Celery worker if a broker is configured, otherwise a worker that polls."""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from app import logs
from app.settings import Settings, explain_invalid
from worker import niceness


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop, and return the exit status: 2 for invalid settings."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--poll", action="store_true", help="poll even if IPT_REDIS_URL names a broker")
    parser.add_argument("--worker-id", help="id of the worker that this one replaces, to take over its jobs at once")
    parser.add_argument("--predecessor-end", help="how the worker that this one replaces ended, for error messages")
    parser.add_argument("--parent-pid", type=int, help="exit when this process is no longer the parent")
    parser.add_argument("--sign-of-life", type=Path, help="file to touch while the worker makes progress")
    arguments = parser.parse_args(argv)
    # Threads that spin while they wait for each other take three times the processor time on a busy machine. OpenMP
    # reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        settings = Settings()
    except ValidationError as error:
        parser.error("; ".join(explain_invalid(error)))
    if settings.database_url is None:
        parser.error("IPT_DATABASE_URL is not set; in the embedded mode `ipt serve` runs the worker itself")
    logs.configure(settings.log_format)
    logs.warn_of_unknown_settings()
    if arguments.parent_pid is not None:
        niceness.lower_priority()
    if settings.redis_url is not None and not arguments.poll:
        from worker.celery_app import run

        run()
        return 0
    from worker.polling import new_worker_id, poll

    worker_id = arguments.worker_id or new_worker_id()
    return poll(
        settings,
        settings.database_url,
        worker_id,
        arguments.parent_pid,
        arguments.sign_of_life,
        arguments.predecessor_end,
    )


if __name__ == "__main__":
    status = main()
    # All jobs are released. Exit without the interpreter's shutdown, which is slow with torch loaded: the parent-watch
    # thread does not run during it, so a hung shutdown would leave an orphan.
    logging.shutdown()
    os._exit(status)
