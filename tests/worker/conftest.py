"""Fixtures: queue adaptations, read their rows and events, and drain the queue."""

from tests.support.drain import new_drainer  # noqa: F401, a fixture
from tests.support.fault_proxy import proxy, socket_folder  # noqa: F401, fixtures
from tests.support.jobs import enqueue, events, row, settings  # noqa: F401, fixtures
