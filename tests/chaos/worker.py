"""`python -m worker` that keeps every tuned vector, since a vector of zeros would compare nothing.

Each validation takes a moment, so that on a fast machine too a fault finds adaptations that run.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from celery.signals import worker_process_init

from worker.__main__ import main

_VALIDATION_SECONDS = 0.5


# Celery's spawned pool process imports this module again and calls this before it claims anything.
@worker_process_init.connect
def keep_tuned(**_: Any) -> None:
    from ipt.tuning.checkpoint import TuningState
    from ipt.tuning.tuning_loop import TuningLoop
    from tests.support.tuned import never_keep_the_start

    def record_validation(self: TuningLoop, state: TuningState, losses: Sequence[float]) -> None:
        time.sleep(_VALIDATION_SECONDS)
        never_keep_the_start(self, state, losses)

    setattr(TuningLoop, "record_validation", record_validation)  # noqa: B010, mypy rejects an assignment


if __name__ == "__main__":
    if "--poll" in sys.argv:
        keep_tuned()
    status = main()
    logging.shutdown()
    os._exit(status)  # for the reason given in worker.__main__
