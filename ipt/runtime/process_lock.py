"""One process at a time: two that write the same thing would each lose what the other has written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ipt.errors import CheckpointError


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a file or folder for this process, by a file `….lock` beside it, which a killed process holds no longer.

    Raises:
        CheckpointError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"{path}: another process is at work on it: wait for it, or choose another name"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
