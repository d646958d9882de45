"""Atomic file writes: a reader sees the old file or the complete new one, even if the writer is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` if the block succeeds. Creates the parent folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    yield temporary
    temporary.replace(path)
