"""Ends a child process after its parent has ended, for any reason."""

import logging
import os
import threading
import time

log = logging.getLogger(__name__)

_CHECK_SECONDS = 0.5
# Time to release the running jobs. A hung step must not keep an orphan alive.
_GRACE_SECONDS = 10.0


def stop_with_parent(parent_pid: int, stop: threading.Event) -> None:
    """Set `stop` once `parent_pid` is no longer this process's parent, and exit forcibly after a grace period."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_CHECK_SECONDS)
        log.warning("parent_gone parent=%d", parent_pid)
        stop.set()
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
