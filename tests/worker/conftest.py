"""Queued adaptations, and reading their rows and events."""

from tests.support.jobs import enqueue, events, row, settings  # noqa: F401, fixtures
