"""The units of work that tuning programs ask of the engine, which runs those of all jobs together.

A program is a generator: it yields work, and is sent the result. Rows name the lane (one of the program's task
vectors) whose prompt they stand behind, or `NO_PROMPT`. Letters: L lanes, B rows, D intrinsic dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ipt.backbones.interface import TokenIds
from ipt.tuning.losses import Loss

NO_PROMPT = -1


@dataclass
class Forward:
    """Run rows without gradients. Result: what the backbone gives for each row, in order.

    That is the embedding [B, H] on an encoder; on a text backbone the cross-entropy [B] of each row's target, the mean
    over its tokens (with label smoothing only where gradients are taken).
    """

    vectors: Tensor
    """[L, D]."""
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    targets: Sequence[TokenIds] | None = None


@dataclass
class Descend:
    """One gradient step of every lane; `state` is moved in place.

    Result: the losses [L], on the CPU. A GPU fills them in later: they can be read once the next step's are there.
    """

    state: LaneState
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    loss: Loss
    """Of what the backbone gives for the rows (see `Forward`); all works of one backbone have the same kind."""
    learning_rate: float
    targets: Sequence[TokenIds] | None = None

    def lanes_alone(self) -> list[Descend]:
        """Each lane as a work of its own, to take its gradient."""
        works = []
        end = 0
        for lane, size in enumerate(self.loss.lane_sizes):
            own, end = slice(end, end + size), end + size
            targets = None if self.targets is None else self.targets[own]
            state, loss = self.state.lane(lane), self.loss.lane(lane)
            works.append(Descend(state, [0] * size, self.inputs[own], loss, self.learning_rate, targets))
        return works


@dataclass
class ScoreLabels:
    """Compare the same labels for every row. Result: [B, C], as `TextBackbone.score_labels` gives it."""

    vectors: Tensor
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    labels: Sequence[TokenIds]


@dataclass
class Generate:
    """Write text for rows. Result: a list of strings."""

    vectors: Tensor
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    max_new_tokens: int = field(default=64)


@dataclass
class Pause:
    """Wait for the turn to compute something long without the backbone: one program has it in a step.

    Result: nothing.
    """


@dataclass
class LaneState:
    """The vectors of a job's lanes, the moments of their optimizer and their averages, all [L, D] float32."""

    vectors: Tensor
    first_moments: Tensor
    second_moments: Tensor
    averages: Tensor
    """Exponential moving averages of the vectors, which are what is validated and kept."""
    step: int = 0
    """Steps taken."""

    def lane(self, lane: int) -> LaneState:
        """That of one lane alone, in the same memory."""
        own = slice(lane, lane + 1)
        return LaneState(
            self.vectors[own], self.first_moments[own], self.second_moments[own], self.averages[own], self.step
        )


Work = Forward | Descend | ScoreLabels | Generate | Pause
Result = Tensor | list[str]
