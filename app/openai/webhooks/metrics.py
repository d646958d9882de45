"""Prometheus metrics of webhooks."""

from typing import Literal, get_args

from prometheus_client import Counter

Outcome = Literal["delivered", "failed", "given_up"]

_DELIVERIES = Counter("ipt_webhook_deliveries_total", "Attempts to deliver a message, by outcome.", ["outcome"])
for _outcome in get_args(Outcome):
    _DELIVERIES.labels(_outcome)


def count_delivery(outcome: Outcome) -> None:
    """Count an attempt: `failed` is tried again, `given_up` is not."""
    _DELIVERIES.labels(outcome).inc()
