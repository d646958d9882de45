"""`/openai/v1/embeddings`."""

from fastapi import APIRouter, Request

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep
from app.http.disconnects import unless_gone
from app.openai.dialect import PREFIX
from app.openai.embeddings.dependencies import EmbeddingsDep
from app.openai.embeddings.schemas import EmbeddingInput, EmbeddingsView

router = APIRouter(prefix=PREFIX, tags=["openai"], route_class=AdmittingRoute)


@router.post("/embeddings", summary="Embed texts")
async def create_embeddings(
    body: EmbeddingInput, embeddings: EmbeddingsDep, tenant: PredictingTenantDep, request: Request
) -> EmbeddingsView:
    """Return embeddings of unit length: behind the prompt of a fine-tuned model, or the backbone's own."""
    return await unless_gone(request, embeddings.embed(tenant, body))
