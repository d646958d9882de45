"""A lock between processes, so that two of them do not overwrite each other's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ipt.errors import CheckpointError


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Lock a file or folder for this process with a file `….lock` beside it. A killed process releases its lock.

    Raises:
        CheckpointError: another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(f"{path}: another process is writing it: wait for it, or choose another name") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
