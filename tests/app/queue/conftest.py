"""Fixtures: queue adaptations, read their rows and events, and a subspace to claim in."""

from tests.support.claims import subspace  # noqa: F401, a fixture
from tests.support.jobs import enqueue, events, row, settings  # noqa: F401, fixtures
