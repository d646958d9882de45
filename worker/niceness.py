"""Process priority of a worker that shares its machine with the API."""

import contextlib
import os
import sys
from pathlib import Path

import psutil

NICENESS = 5
"""The worker gets a quarter of a processor that another process competes for, and all of an idle one."""
_AUTOGROUP = Path("/proc/self/autogroup")


def lower_priority() -> None:
    """Lower this process's priority. Call it before starting threads, which inherit the priority."""
    if sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        return
    os.nice(NICENESS)
    # With autogroups, Linux shares time among sessions, and niceness counts only within a session. This worker has its
    # own session.
    if _AUTOGROUP.exists():
        with contextlib.suppress(OSError):  # read-only in many containers
            _AUTOGROUP.write_text(str(NICENESS))
