"""Embed texts with the backbone or with a fine-tuned model, through the service's own predictions."""

from dataclasses import dataclass

from app.errors import ConflictError, InvalidError, NotFoundError
from app.http.text_limits import check_input_count, check_text_length
from app.openai import names
from app.openai.backbone_names import base_model_of
from app.openai.embeddings.schemas import EmbeddingInput, EmbeddingsView
from app.openai.errors import as_model_error, model_not_found
from app.predictions.model import Model
from app.predictions.models import Models
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeds for all tenants in this process."""

    settings: Settings
    models: Models
    predictions: Predictions

    async def embed(self, tenant_id: str, body: EmbeddingInput) -> EmbeddingsView:
        """Return the embedding of each text.

        Raises:
            InvalidError: a text is too long, there are too many, or the model has another number of dimensions.
            NotFoundError: there is no such model.
            ConflictError: the backbone has no sentence embeddings.
            BusyError: too many texts of the tenant are waiting.
            UnavailableError: the model is not loaded, is out of memory, or the service is stopping.
        """
        self.models.check_loaded()
        task_id = names.task_of_model(body.model)
        question = None if task_id is None else Question(task_id, None, "", "model")
        model = await self._model(tenant_id, body.model, question)
        backbone = model.predictor.backbone
        if body.dimensions is not None and body.dimensions != backbone.hidden_size:
            raise InvalidError(
                f"the model has {backbone.hidden_size} dimensions, and no shorter embeddings: leave it out",
                code="unsupported_value",
                param="dimensions",
            )
        for text in body.texts:
            check_text_length(self.settings, text, "input")
        check_input_count(self.settings, len(body.texts), "input")
        try:
            embedded = await self.predictions.embed(tenant_id, question, body.texts, model)
        except (NotFoundError, ConflictError) as error:
            raise as_model_error(body.model, error) from error
        return EmbeddingsView.of(body, embedded.embeddings, sum(embedded.tokens))

    async def _model(self, tenant_id: str, name: str, question: Question | None) -> Model:
        """Return the model of a task, or the one that a name means which is no task's."""
        if question is not None:
            try:
                return await self.predictions.model_of(tenant_id, question)
            except (NotFoundError, ConflictError) as error:
                raise as_model_error(name, error) from error
        # Encoders first: only they embed.
        for model in sorted(self.models.all, key=lambda model: model.family != "encoder"):
            if names.names_embedder(name, base_model_of(model)):
                return model
        raise model_not_found(name, "name one of GET /openai/v1/models")
