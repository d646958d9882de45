"""How a worker that shares its machine with the API lets answering go first."""

import contextlib
import os
import sys
from pathlib import Path

import psutil

NICENESS = 5
"""A quarter of the time where another process wants the same processor, all of it where none does."""
_AUTOGROUP = Path("/proc/self/autogroup")


def give_way() -> None:
    """Lower this process's priority. Threads inherit it as they start, so call this before there are any."""
    if sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        return
    os.nice(NICENESS)
    # Linux may share time out among sessions, of which this worker has its own; niceness then counts within one alone.
    if _AUTOGROUP.exists():
        with contextlib.suppress(OSError):  # read-only in many containers
            _AUTOGROUP.write_text(str(NICENESS))
