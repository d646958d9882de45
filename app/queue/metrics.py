"""Metrics of adaptations that any process may change: a worker or the API."""

import prometheus_client
from prometheus_client import Counter, Histogram

from app.db import models

# Each counter would export a second series with its creation time. The ignored function has no annotations.
prometheus_client.disable_created_metrics()

FINISHED = Counter("ipt_adaptations_finished_total", "Finished adaptations, by outcome.", ["outcome"])
for _outcome in models.FINISHED:
    FINISHED.labels(_outcome)
QUEUE_SECONDS = Histogram(
    "ipt_adaptation_queue_seconds",
    "Time from an adaptation's creation until a worker claimed it for the first time.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
