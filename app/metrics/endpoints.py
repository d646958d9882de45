"""`/metrics`."""

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, REGISTRY, generate_latest

from app.api_keys.dependencies import metrics_reader
from app.errors import AuthenticationError, documented
from app.metrics.dependencies import StateCollectorDep

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Read the metrics",
    dependencies=[Depends(metrics_reader)],
    response_class=Response,
    responses=documented([AuthenticationError]) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(collector: StateCollectorDep) -> Response:
    """Return the metrics in the text format of Prometheus. Only the operator (`IPT_API_KEY`) may read them.

    With `IPT_OPEN_METRICS` anyone may.
    """
    return Response(generate_latest(REGISTRY) + generate_latest(collector), media_type=CONTENT_TYPE_PLAIN_0_0_4)
