"""Adaptations: runs that tune a task."""
