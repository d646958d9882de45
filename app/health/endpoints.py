"""`/healthz` and `/readyz`."""

from dataclasses import asdict

from fastapi import APIRouter, Response

from app.errors import ErrorDetail, UnavailableError, documented
from app.health.dependencies import ReadinessDep
from app.health.readiness import DatabaseState
from app.health.schemas import Alive, Checks, LoadedBackbone, NotReady, Ready, UnanswerableView
from app.predictions.dependencies import ModelsDep
from app.predictions.models import State as ModelState

router = APIRouter(tags=["health"])

_RESPONSES = documented([UnavailableError])
_RESPONSES[503] |= {"model": NotReady, "description": "not ready yet, or no longer ready"}


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Alive:
    """Check nothing else, so that a database outage does not cause a restart of this process."""
    return Alive()


@router.get("/readyz", summary="Can it serve?", responses=_RESPONSES, response_model=Ready | NotReady)
async def readyz(models: ModelsDep, readiness: ReadinessDep, response: Response) -> Ready | NotReady:
    """Check that the database answers, that its migrations match this release, and that the models are loaded.

    `unanswerable` counts what needs a subspace that this service does not have; everything else is served.
    """
    # No check waits for a thread of the pool: requests to a database that hangs may hold all of them.
    database = await readiness.database()
    checks = _checks(database.state, models.state)
    failed = [name for name, state in checks.model_dump().items() if state != "ok"]
    if not failed and database.unanswerable is not None:
        backbones = [LoadedBackbone.of(model.loaded) for model in models.all]
        unanswerable = UnanswerableView(**asdict(database.unanswerable))
        return Ready(checks=checks, backbones=backbones, unanswerable=unanswerable)
    response.status_code = UnavailableError.status
    response.headers["Retry-After"] = "2"
    message = "not ready: " + ", ".join(f"{name} {getattr(checks, name)}" for name in failed)
    if checks.model == "failed":
        message += f"; {models.failure}"
    detail = ErrorDetail(message=message, type=UnavailableError.type, param=None, code="not_ready")
    return NotReady(error=detail, checks=checks)


def _checks(database: DatabaseState, model: ModelState) -> Checks:
    if database == "unavailable":
        return Checks(database="unavailable", migrations="unknown", model=model)
    return Checks(database="ok", migrations=database, model=model)
