"""`/openai/v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep, TenantDep
from app.db.dependencies import TransactionDep
from app.http.fields import Storable
from app.openai import names
from app.openai.dependencies import BackbonesDep
from app.openai.dialect import PREFIX
from app.openai.errors import model_not_found
from app.openai.models import repository
from app.openai.models.schemas import DeletedModelView, ModelsView, ModelView
from app.tasks import service as tasks

router = APIRouter(prefix=f"{PREFIX}/models", tags=["openai"], route_class=AdmittingRoute)

LISTED_MODELS = 1000
"""Most fine-tuned models of the list, which has no pages."""

ModelName = Annotated[Storable, Path(max_length=512)]


@router.get("", summary="List models")
def list_models(transaction: TransactionDep, backbones: BackbonesDep, tenant: TenantDep) -> ModelsView:
    """List the backbones and the newest 1,000 tasks that can answer, newest first."""
    base = [ModelView.of_backbone(name) for name in backbones.all()]
    with transaction() as session:
        rows = repository.newest(session, tenant, LISTED_MODELS)
    return ModelsView(data=[*base, *(ModelView.of(task, backbones.of_subspace(subspace)) for task, subspace in rows)])


@router.get("/{name}", summary="Look at a model")
def get_model(name: ModelName, transaction: TransactionDep, backbones: BackbonesDep, tenant: TenantDep) -> ModelView:
    """Return a model; the last part of a fine-tuned model's name decides."""
    if name in backbones.all():
        return ModelView.of_backbone(name)
    task_id = names.task_of_model(name)
    with transaction() as session:
        row = None if task_id is None else repository.get(session, tenant, task_id)
    if row is None:
        raise model_not_found(name, "see GET /openai/v1/models")
    task, subspace_id = row
    return ModelView.of(task, backbones.of_subspace(subspace_id))


@router.delete("/{name}", summary="Delete a fine-tuned model")
def delete_model(name: ModelName, transaction: TransactionDep, tenant: AdaptingTenantDep) -> DeletedModelView:
    """Delete a task with its versions and the fine-tuning jobs that created them."""
    task_id = names.task_of_model(name)
    with transaction() as session:
        if task_id is None or repository.get(session, tenant, task_id) is None:
            raise model_not_found(name, "see GET /openai/v1/models; base models cannot be deleted")
        tasks.remove(session, tenant, task_id)
    return DeletedModelView(id=name)
