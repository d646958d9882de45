"""Exponential backoff between retries."""


class Backoff:
    """Doubles the wait from `first` to `most` seconds with each failure, and starts over after `reset`."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self.failures = 0

    def record_failure(self) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        wait = min(self._most, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return wait

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0
