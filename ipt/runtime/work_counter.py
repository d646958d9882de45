"""Counts the passes that this process computes, so that a watchdog sees progress within a long step."""

from __future__ import annotations


class WorkCounter:
    """A number that only grows while work proceeds. Any thread may read it; updates may get lost, which is harmless."""

    def __init__(self) -> None:
        self.passes = 0

    def advance(self) -> None:
        """Count a pass."""
        self.passes += 1


work_counter = WorkCounter()
"""The passes of all backbones of this process."""
