"""Simulate many histories of the queue, or replay one.

    python -m tests.simulation [--histories 1000000] [--restart]
    python -m tests.simulation --seed 17 [--postgres]

A run continues where an earlier one of the same code has stopped. A seed replays the history that failed.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from sqlalchemy import Engine

from app.db import migrate
from app.db.embedded import embedded_postgres
from app.db.session import make_engine
from tests.simulation.database import DatabaseError
from tests.simulation.history import History
from tests.simulation.invariants import Violation

ROOT = Path(__file__).parents[2]
STATE = ROOT / ".simulation"
HISTORIES = 1_000_000
_HISTORIES_PER_SAVE = 500


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--restart", action="store_true", help="forget the histories of an earlier run")
    parser.add_argument("--seed", type=int, help="replay this history")
    parser.add_argument("--postgres", action="store_true", help="replay it in PostgreSQL too, and compare")
    options = parser.parse_args(arguments)
    if options.seed is None:
        return _run_many(options.histories, 0 if options.restart else _next_seed())
    if not options.postgres:
        History(options.seed).run()
        return 0
    from tests.simulation.mirror import mirrored

    with _database() as engine, mirrored(engine) as new_mirror, new_mirror() as mirror:
        History(options.seed, mirror).run()
    return 0


def _run_many(histories: int, first: int) -> int:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("histories", total=histories, completed=first)
        for seed in range(first, histories):
            try:
                History(seed).run()
            except (Violation, DatabaseError, AssertionError) as error:
                print(f"error: seed {seed}: {error}; replay it with --seed {seed}", file=sys.stderr)
                return 1
            progress.advance(bar)
            if (seed + 1) % _HISTORIES_PER_SAVE == 0 or seed + 1 == histories:
                STATE.write_text(json.dumps({"code": _code(), "next": seed + 1}), encoding="utf-8")
    print(f"{histories} histories, no promise broken")
    return 0


def _next_seed() -> int:
    try:
        state = json.loads(STATE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    return int(state["next"]) if state.get("code") == _code() else 0


def _code() -> str:
    """Return a hash of the simulation and of the queue: other code has other histories."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "tests/simulation").glob("*.py"), *(ROOT / "app/queue").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _database() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, embedded_postgres(Path(folder)) as url:
        engine = make_engine(url)
        migrate.upgrade(engine)
        yield engine
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
