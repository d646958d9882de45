"""What is counted of adaptations, in whichever process it happens: a worker's or the API's."""

import prometheus_client
from prometheus_client import Counter, Histogram

from app.db import models

# Without it each counter has a second series, which says when it was made.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

FINISHED = Counter("ipt_adaptations_finished_total", "Adaptations that have ended, by how.", ["outcome"])
for _outcome in models.FINISHED:
    FINISHED.labels(_outcome)
QUEUE_SECONDS = Histogram(
    "ipt_adaptation_queue_seconds",
    "Time from an adaptation's creation until a worker took it up for the first time.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
