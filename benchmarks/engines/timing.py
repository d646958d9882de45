"""Alternating timing of several ways to do the same work, so that a disturbance affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Ratio:
    """The speed-up of one way over another in each round."""

    of_rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.of_rounds)

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({min(self.of_rounds):.2f} to {max(self.of_rounds):.2f})"


def in_turn(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each way per round, after `warm_up` rounds; the order alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            round_seconds = timed(ways[name], device)
            if number >= warm_up:
                seconds[name].append(round_seconds)
    return seconds


def timed(way: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until the work has finished, also on the device."""
    _finish(device)
    began = time.perf_counter()
    way()
    _finish(device)
    return time.perf_counter() - began


def faster(seconds: Mapping[str, list[float]], one: str, other: str) -> Ratio:
    """Return the speed-up of `one` over `other`."""
    return Ratio([b / a for a, b in zip(seconds[one], seconds[other], strict=True)])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
