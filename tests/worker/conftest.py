"""Queued adaptations, reading their rows and events, and drainers."""

from tests.support.drain import new_drainer  # noqa: F401, a fixture
from tests.support.jobs import enqueue, events, row, settings  # noqa: F401, fixtures
