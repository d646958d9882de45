"""Embed texts with the backbone or with a fine-tuned model, through the service's own predictions."""

from dataclasses import dataclass

from app.errors import ConflictError, InvalidError, NotFoundError
from app.http.text_limits import check_input_count, check_text_length
from app.openai import names
from app.openai.embeddings.schemas import EmbeddingInput, EmbeddingsView
from app.openai.errors import as_model_error, model_not_found
from app.predictions.model import Model
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeds for all tenants in this process."""

    settings: Settings
    model: Model
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
        backbone = self.model.predictor.backbone
        task_id = names.task_of_model(body.model)
        if task_id is None and not names.names_embedder(body.model, names.base_model(backbone.identity.id)):
            raise model_not_found("name one of GET /openai/v1/models")
        if body.dimensions is not None and body.dimensions != backbone.hidden_size:
            raise InvalidError(
                f"the model has {backbone.hidden_size} dimensions, and no shorter embeddings: leave it out",
                code="unsupported_value",
                param="dimensions",
            )
        for text in body.texts:
            check_text_length(self.settings, text, "input")
        check_input_count(self.settings, len(body.texts), "input")
        question = None if task_id is None else Question(task_id, None, "", "model")
        try:
            embedded = await self.predictions.embed(tenant_id, question, body.texts)
        except (NotFoundError, ConflictError) as error:
            raise as_model_error(error) from error
        return EmbeddingsView.of(body, embedded.embeddings, sum(embedded.tokens))
