"""Write a file so that whoever reads it, also after a kill, finds the old one or the new one, whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` in one move when the block ends well; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    yield temporary
    temporary.replace(path)
