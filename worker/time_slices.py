"""Time slices: what keeps others from running makes way for them, but not before it got something done."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Slice:
    """The time that a job has in the engine before it may be asked to make way.

    `step` is where the job goes on from. What it does before it gets beyond that, such as reading its examples, is in
    no checkpoint and will have to be done again: so the slice begins with the first step beyond it, and lasts no less
    than that took. A job that is handed back has thus always moved, and half of its time at the least was of use.
    """

    step: int
    joined_at: float = field(default_factory=time.monotonic)
    moved_at: float | None = None

    def advanced(self, step: int) -> None:
        """Note where the job is after an engine step."""
        if self.moved_at is None and step > self.step:
            self.moved_at = time.monotonic()

    def is_over(self, seconds: float) -> bool:
        """Whether the job has had its slice, of `seconds` or more."""
        if self.moved_at is None:
            return False
        return time.monotonic() - self.moved_at >= max(seconds, self.moved_at - self.joined_at)
