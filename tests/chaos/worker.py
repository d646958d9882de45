"""`python -m worker`, but keeping every tuned vector: what is compared with an undisturbed run must not be zeros."""

import logging
import os
import sys
from typing import Any

from celery.signals import worker_process_init

from worker.__main__ import main


# In Celery's pool, whose process imports this module anew, before it takes anything up.
@worker_process_init.connect
def keep_tuned(**_: Any) -> None:
    from ipt.tuning import program

    program.KEEP_NATS = -1e9


if __name__ == "__main__":
    if "--poll" in sys.argv:
        keep_tuned()
    status = main()
    logging.shutdown()
    os._exit(status)  # as worker.__main__ does, and for its reason
