"""`/v1/tasks/{task_id}/label-studio`: the routes that Label Studio calls on a machine-learning backend."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.adaptations.creation import CreationDep
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import PredictingTenantDep, TenantDep
from app.db.dependencies import TransactionDep
from app.errors import ConflictError, NotFoundError, PermissionDeniedError, documented
from app.http.dependencies import SettingsDep
from app.http.disconnects import unless_gone
from app.http.fields import Id
from app.label_studio import service
from app.label_studio.label_config import text_choices
from app.label_studio.schemas import (
    HealthView,
    LabelStudioPredictInput,
    PredictView,
    SetupInput,
    SetupView,
    WebhookInput,
    WebhookView,
)
from app.predictions.dependencies import predictions_of
from app.predictions.service import Predictions
from app.tasks import service as tasks

_SCOPED = documented([PermissionDeniedError])

router = APIRouter(
    prefix="/v1/tasks/{task_id}/label-studio",
    tags=["label studio"],
    responses=documented([NotFoundError, ConflictError]),
    route_class=AdmittingRoute,
)


@router.get("/health", summary="Say that the backend is there")
def health(task_id: Id, transaction: TransactionDep, tenant: TenantDep) -> HealthView:
    """Answer Label Studio's check of a connection; an unknown task or key is an error."""
    with transaction() as session:
        tasks.get(session, tenant, task_id)
    return HealthView()


@router.post("/setup", summary="Connect a project")
def setup(task_id: Id, body: SetupInput, transaction: TransactionDep, tenant: TenantDep) -> SetupView:
    """Check that the project's labeling configuration annotates a text with choices."""
    text_choices(body.label_config, "schema")
    with transaction() as session:
        version = tasks.version(session, tenant, task_id, None).version
    return SetupView(model_version=service.version_name(task_id, version))


@router.post("/predict", summary="Predict for annotators", responses=_SCOPED)
async def predict(
    task_id: Id,
    body: LabelStudioPredictInput,
    request: Request,
    tenant: PredictingTenantDep,
    predictions: Annotated[Predictions, Depends(predictions_of)],
) -> PredictView:
    """Answer the tasks of a project with choices, in Label Studio's format."""
    return await unless_gone(request, service.predict(predictions, tenant, task_id, body))


@router.post("/webhook", status_code=201, summary="Take an annotation", responses=_SCOPED)
async def webhook(task_id: Id, body: WebhookInput, creation: CreationDep, settings: SettingsDep) -> WebhookView:
    """Keep the annotation of a webhook; every `IPT_LABEL_STUDIO_ANNOTATIONS` of them a new version is tuned.

    `START_TRAINING` tunes a version on those that are kept. A deleted annotation counts until a version is tuned on it.
    """
    every = settings.label_studio_annotations
    return await creation.run(partial(service.record, every=every, task_id=task_id, body=body))
