"""`/openai/v1/embeddings`."""

from fastapi import APIRouter, Request

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.http.dependencies import SettingsDep
from app.http.disconnects import unless_gone
from app.openai.dialect import PREFIX
from app.openai.embeddings import service
from app.openai.embeddings.schemas import EmbeddingInput, EmbeddingsView
from app.predictions.dependencies import ModelDep, predictions_of

router = APIRouter(prefix=PREFIX, tags=["openai"], route_class=AdmittingRoute)


@router.post("/embeddings", summary="Embed texts")
async def create_embeddings(
    body: EmbeddingInput, settings: SettingsDep, model: ModelDep, tenant: PredictingTenantDep, request: Request
) -> EmbeddingsView:
    """Return embeddings of unit length: behind the prompt of a fine-tuned model, or the backbone's own."""
    work = service.embed(settings, model, predictions_of(request), tenant, body)
    return await unless_gone(request, work)
