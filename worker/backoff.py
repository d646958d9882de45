"""Exponential backoff between retries."""


class Backoff:
    """Doubles the wait, from `shortest` to at most `longest` seconds, with each failure; `reset` starts over."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self.failures = 0

    def record_failure(self) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        wait = min(self._longest, self._shortest * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return wait

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0
