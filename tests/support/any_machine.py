"""Hypothesis' profile for tests that do not depend on how fast the machine is; importing this loads it."""

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
