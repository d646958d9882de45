"""`/metrics`."""

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, REGISTRY, generate_latest

from app.api_keys.dependencies import metrics_reader
from app.errors import AuthenticationError, documented
from app.metrics.dependencies import StateCollectorDep

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="The service in numbers",
    dependencies=[Depends(metrics_reader)],
    response_class=Response,
    responses=documented([AuthenticationError]) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(collector: StateCollectorDep) -> Response:
    """For Prometheus, in its text format; for the operator, whose key is `IPT_API_KEY`, unless `IPT_OPEN_METRICS`."""
    return Response(generate_latest(REGISTRY) + generate_latest(collector), media_type=CONTENT_TYPE_PLAIN_0_0_4)
