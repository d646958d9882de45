"""A child that ends when its parent does, however that came about."""

import logging
import os
import threading
import time

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
# Time to hand back what runs; a step that hangs must not keep an orphan alive.
_GRACE_SECONDS = 10.0


def end_with(parent_pid: int, stop: threading.Event) -> None:
    """Set `stop` once the process `parent_pid` is no longer this one's parent, and end by force a little later."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_LOOK_SECONDS)
        log.warning("parent_gone parent=%d", parent_pid)
        stop.set()
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
