"""The rule that maps OpenAI's hyperparameters to the service's own."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from app.adaptations.schemas import HyperparametersInput
from app.http.fields import StrictBody
from ipt.data.examples import TaskKind
from ipt.tuning.job import BATCH_SIZE, LARGEST_LEARNING_RATE, SEED, STEPS, Hyperparameters

_DEFAULTS = Hyperparameters()
Auto = Literal["auto"]
_AUTO: Auto = "auto"


class OpenAIHyperparameters(StrictBody):
    """Each a number or `auto`; a number outside the range of the service's own parameter becomes the nearest one."""

    n_epochs: Annotated[int, Field(ge=1, le=10_000)] | Auto = Field(
        default=_AUTO, description="steps = n_epochs x examples / batch_size, rounded up; a job may end sooner"
    )
    batch_size: Annotated[int, Field(ge=1, le=10_000)] | Auto = Field(default=_AUTO, description="examples in a step")
    learning_rate_multiplier: Annotated[float, Field(ge=1e-6, le=1000)] | Auto = Field(
        default=_AUTO, description="learning rate = multiplier x the service's default learning rate"
    )

    def to_own(self, examples: int, kind: TaskKind, seed: int | None) -> HyperparametersInput:
        """Return the service's hyperparameters for a number of examples; `auto` leaves a default as it is."""
        batch_size = steps = rate = None
        if isinstance(self.batch_size, int):
            batch_size = min(max(self.batch_size, BATCH_SIZE.smallest), BATCH_SIZE.largest)
        if isinstance(self.n_epochs, int):
            steps = math.ceil(self.n_epochs * examples / (batch_size or Hyperparameters.defaults(kind).batch_size))
            steps = min(steps, STEPS.largest)
        if isinstance(self.learning_rate_multiplier, float):
            rate = min(self.learning_rate_multiplier * _DEFAULTS.learning_rate, LARGEST_LEARNING_RATE)
        return HyperparametersInput(
            steps=steps, batch_size=batch_size, learning_rate=rate, seed=_AUTO if seed is None else seed
        )


class SupervisedMethod(StrictBody):
    hyperparameters: OpenAIHyperparameters | None = None


class Method(StrictBody):
    type: Literal["supervised"]
    supervised: SupervisedMethod = Field(default_factory=SupervisedMethod)


Seed = Annotated[int, Field(ge=SEED.smallest, le=SEED.largest)]


def shown(own: dict[str, Any], examples: int) -> dict[str, int | float]:
    """Return an adaptation's hyperparameters under OpenAI's names, as numbers."""
    return {
        "n_epochs": max(1, round(own["steps"] * own["batch_size"] / examples)),
        "batch_size": own["batch_size"],
        "learning_rate_multiplier": own["learning_rate"] / _DEFAULTS.learning_rate,
    }
