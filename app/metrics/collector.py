"""Metrics that are read at each scrape: queue, workers and outbox, from the database, and the state of the model."""

import logging
import threading
import time
from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import transaction
from app.metrics.repository import QueueState, queue_state
from app.predictions.models import Models, State
from app.subspaces.coverage import Coverage

log = logging.getLogger(__name__)

CACHE_SECONDS = 2.0


class StateCollector(Collector):
    """Queries the database at most once in `CACHE_SECONDS`. Without it, only the queue's metrics are missing."""

    def __init__(self, engine: Engine, models: Models, coverage: Coverage) -> None:
        self._engine = engine
        self._models = models
        self._coverage = coverage
        self._lock = threading.Lock()
        self._queue: QueueState | None = None
        self._queried_at = float("-inf")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; while the database is unreachable, the queue's gauges are omitted rather than 0."""
        states = GaugeMetricFamily("ipt_model_state", "1 for the current state of the models.", labels=["state"])
        for state in get_args(State):
            states.add_metric([state], state == self._models.state)
        yield states
        labels = ["backbone", "family", "subspace"]
        backbones = GaugeMetricFamily("ipt_backbone_info", "1 for each loaded backbone.", labels=labels)
        for model in self._models.all if self._models.state == "ok" else []:
            backbone = model.loaded.backbone
            backbones.add_metric([backbone.identity.id, backbone.family, model.loaded.subspace.id], 1)
        yield backbones
        queue = self._queue_state()
        yield GaugeMetricFamily("ipt_database_up", "Whether the database answers.", queue is not None)
        if queue is None:
            return
        adaptations = GaugeMetricFamily("ipt_queue_adaptations", "Adaptations queued or running.", labels=["state"])
        adaptations.add_metric(["queued"], queue.queued)
        adaptations.add_metric(["running"], queue.running)
        yield adaptations
        ages = GaugeMetricFamily(
            "ipt_queue_oldest_age_seconds",
            "Time since the oldest queued adaptation was created, or the oldest running one claimed; 0 without any.",
            labels=["state"],
        )
        ages.add_metric(["queued"], queue.queued_seconds)
        ages.add_metric(["running"], queue.running_seconds)
        yield ages
        yield GaugeMetricFamily("ipt_workers", "Live workers.", queue.workers)
        yield GaugeMetricFamily(
            "ipt_webhooks_pending",
            "Messages that no receiver has accepted yet, with those that wait for a retry.",
            queue.webhooks,
        )
        yield GaugeMetricFamily(
            "ipt_webhook_oldest_pending_seconds",
            "Age of the oldest pending message; 0 without any.",
            queue.webhook_seconds,
        )
        yield from self._unanswerable()

    def _unanswerable(self) -> Iterator[GaugeMetricFamily]:
        try:
            counted = self._coverage.unanswerable()
        except SQLAlchemyError as error:
            log.warning("subspaces_not_counted error=%s", type(error).__name__)
            return
        gauge = GaugeMetricFamily(
            "ipt_unanswerable",
            "Tasks and queued adaptations whose subspace this service does not have, at most 10,000 each.",
            labels=["kind"],
        )
        gauge.add_metric(["task"], counted.tasks)
        gauge.add_metric(["queued_adaptation"], counted.queued_adaptations)
        yield gauge

    def _queue_state(self) -> QueueState | None:
        with self._lock:
            if time.monotonic() - self._queried_at > CACHE_SECONDS:
                try:
                    with transaction(self._engine) as session:
                        self._queue = queue_state(session)
                except SQLAlchemyError as error:
                    log.warning("queue_not_counted error=%s", type(error).__name__)
                    self._queue = None
                self._queried_at = time.monotonic()
            return self._queue
