"""Time slices: how long a job runs before it may be preempted."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class TimeSlice:
    """The time that a job has in the engine before it may be preempted.

    `step` is the step that the job resumes from. Work before the next step, such as reading the examples, is in no
    checkpoint and is lost when the job is preempted. So the slice starts with the first step beyond `step`, and lasts
    at least as long as reaching that step took: a preempted job has advanced, and at most half of its time is lost.
    """

    step: int
    joined_at: float = field(default_factory=time.monotonic)
    advanced_at: float | None = None

    def record_step(self, step: int) -> None:
        """Record the job's position after an engine step."""
        if self.advanced_at is None and step > self.step:
            self.advanced_at = time.monotonic()

    def is_over(self, seconds: float) -> bool:
        """Whether the job has had its slice, of `seconds` or more."""
        if self.advanced_at is None:
            return False
        return time.monotonic() - self.advanced_at >= max(seconds, self.advanced_at - self.joined_at)
