"""`python -m worker` that keeps every tuned vector, since a vector of zeros would compare nothing."""

import logging
import os
import sys
from typing import Any

from celery.signals import worker_process_init

from worker.__main__ import main


# Celery's spawned pool process imports this module again and calls this before it claims anything.
@worker_process_init.connect
def keep_tuned(**_: Any) -> None:
    from ipt.tuning.tuning_loop import TuningLoop
    from tests.support.tuned import never_keep_the_start

    setattr(TuningLoop, "record_validation", never_keep_the_start)  # noqa: B010, mypy rejects an assignment


if __name__ == "__main__":
    if "--poll" in sys.argv:
        keep_tuned()
    status = main()
    logging.shutdown()
    os._exit(status)  # for the reason given in worker.__main__
