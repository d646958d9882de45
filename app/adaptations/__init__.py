"""Adaptations: tuning runs, each of which creates a version of a task."""
