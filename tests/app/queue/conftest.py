"""Queued adaptations, as the worker's tests have them."""

from tests.support.jobs import enqueue, events, row, settings  # noqa: F401, fixtures
