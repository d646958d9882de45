"""The names of the backbones as base models."""

from dataclasses import dataclass

from app.openai import names
from app.predictions.model import Model
from app.predictions.models import Models


def base_model_of(model: Model) -> str:
    """Return the name of a model's backbone.

    Raises:
        UnavailableError: the models are not loaded.
    """
    return names.base_model(model.predictor.backbone.identity.id)


@dataclass(frozen=True, slots=True)
class BackboneNames:
    """The base models of this process; a request that needs them gets a 503 while the models load."""

    models: Models

    def all(self) -> list[str]:
        """Return the name of each backbone."""
        return [base_model_of(model) for model in self.models.all]

    def of_subspace(self, subspace_id: str) -> str:
        """Return the backbone of a subspace, the first one if no backbone of this process has the subspace."""
        return base_model_of(self.models.of_subspace(subspace_id) or self.models.all[0])
