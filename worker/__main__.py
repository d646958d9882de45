"""`python -m worker`: Celery's worker where a broker is configured, else one that polls."""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from app import logs
from app.settings import Settings
from app.validation import explain
from worker import niceness


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop; returns the exit status, 2 for settings that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--poll", action="store_true", help="poll, although IPT_REDIS_URL names a broker")
    parser.add_argument("--worker-id", help="the name of a worker that this one replaces, to inherit its work at once")
    parser.add_argument("--parent-pid", type=int, help="end when this process is no longer the parent")
    parser.add_argument("--sign-of-life", type=Path, help="a file to touch while work goes on")
    arguments = parser.parse_args(argv)
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(f"IPT_{str(item['loc'][0]).upper()}: {explain(item)}" for item in error.errors())
        parser.error(wrong)
    if settings.database_url is None:
        parser.error("IPT_DATABASE_URL is not set; in the embedded mode `ipt serve` runs the worker itself")
    logs.configure(settings.log_format)
    logs.name_unknown_settings()
    if arguments.parent_pid is not None:
        niceness.give_way()
    if settings.redis_url is not None and not arguments.poll:
        from worker.celery_app import run

        run()
        return 0
    from worker.polling import new_worker_id, poll

    worker_id = arguments.worker_id or new_worker_id()
    return poll(settings, settings.database_url, worker_id, arguments.parent_pid, arguments.sign_of_life)


if __name__ == "__main__":
    status = main()
    # Everything is handed back. The interpreter's own end is slow with torch loaded, and the thread that watches for
    # the parent's end does not outlive its beginning: should it hang, nobody would be left to end an orphan.
    logging.shutdown()
    os._exit(status)
