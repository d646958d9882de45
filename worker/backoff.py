"""How long to wait before the next try of something that keeps failing."""


class Backoff:
    """Doubles from `first` to `most` seconds with every failure, and starts over after a success."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self.failures = 0

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        wait = min(self._most, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return wait

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
