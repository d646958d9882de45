"""The result of a chaos run: counts, times, and every error that it found."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Result:
    """Counts and errors of a run.

    `lost` holds accepted adaptations without a result, `duplicated` requests that were run twice, and `errors` every
    other violation. `stop_seconds` holds the seconds from SIGTERM to the end of each process, with its name;
    `recovery_seconds` those from the loss of a worker until its adaptation ran again or finished, with the fault.
    """

    adaptations: int
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    attempts: list[int] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)
    stop_seconds: list[tuple[float, str]] = field(default_factory=list)
    recovery_seconds: list[tuple[float, str]] = field(default_factory=list)
    most_connections: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
