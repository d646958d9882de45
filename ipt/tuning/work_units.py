"""Units of work that tuning loops request from the engine, which runs those of all jobs together.

A tuning loop is a generator: it yields a unit of work and is sent its result. Each row names its lane (one of the
job's task vectors), whose prompt is placed before the row, or `NO_PROMPT`. Letters: L lanes, B rows, D intrinsic
dimension.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ipt.backbones.interface import Answer, TokenIds
from ipt.tuning.losses import Loss

NO_PROMPT = -1


@dataclass
class Forward:
    """Run rows without gradients. Result: the backbone's output for each row, in order.

    On an encoder the output is the embedding [B, H]. On a text backbone it is the cross-entropy [B] of each row's
    target, the mean over its tokens, without label smoothing.
    """

    vectors: Tensor
    """[L, D]."""
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    targets: Sequence[TokenIds] | None = None


@dataclass
class GradientStep:
    """Take one gradient step in every lane; `state` is updated in place.

    Result: the losses [L], on the CPU. A GPU fills them in later: read them once the next step's result has arrived.
    """

    state: LaneState
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    loss: Loss
    """Computed from the backbone's outputs (see `Forward`, with label smoothing); one class for each backbone."""
    learning_rate: float
    targets: Sequence[TokenIds] | None = None

    def split_lanes(self) -> list[GradientStep]:
        """Return the gradient step of each lane as a unit of its own."""
        steps = []
        end = 0
        for lane, size in enumerate(self.loss.lane_sizes):
            rows, end = slice(end, end + size), end + size
            targets = None if self.targets is None else self.targets[rows]
            state, loss = self.state.lane(lane), self.loss.lane(lane)
            steps.append(GradientStep(state, [0] * size, self.inputs[rows], loss, self.learning_rate, targets))
        return steps


@dataclass
class ScoreLabels:
    """Compare the same labels for every row. Result: the output [B, C] of `TextBackbone.score_labels`."""

    vectors: Tensor
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    labels: Sequence[TokenIds]


@dataclass
class Generate:
    """Generate text for rows. Result: a list of answers."""

    vectors: Tensor
    lanes: Sequence[int]
    inputs: Sequence[TokenIds]
    max_new_tokens: int = field(default=64)


@dataclass
class Pause:
    """Wait before a long computation without the backbone; the engine resumes one paused loop a step.

    Result: None.
    """


@dataclass
class LaneState:
    """The vectors of a job's lanes, their optimizer moments and their averages, each [L, D] float32."""

    vectors: Tensor
    first_moments: Tensor
    second_moments: Tensor
    averages: Tensor
    """Exponential moving averages of the vectors; validation measures these, and the best one is kept."""
    step: int = 0
    """Number of completed steps."""

    def lane(self, lane: int) -> LaneState:
        """Return a view of one lane, in the same memory."""
        row = slice(lane, lane + 1)
        return LaneState(
            self.vectors[row], self.first_moments[row], self.second_moments[row], self.averages[row], self.step
        )


Work = Forward | GradientStep | ScoreLabels | Generate | Pause
Result = Tensor | list[Answer]
WorkStream = Generator[Work, Result, None]
