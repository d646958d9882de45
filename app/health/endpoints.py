"""`/healthz` and `/readyz`."""

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from app.db import migrate
from app.dependencies import Services, ServicesDep
from app.errors import ErrorDetail, UnavailableError, documented
from app.health.schemas import Alive, Checks, NotReady, Ready

router = APIRouter(tags=["health"])

_RESPONSES = documented([UnavailableError])
_RESPONSES[503] |= {"model": NotReady, "description": "not yet, or no longer"}


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Alive:
    """Touches nothing, so that a database that is away does not get this process restarted."""
    return Alive()


@router.get("/readyz", summary="Can it serve?", responses=_RESPONSES, response_model=Ready | NotReady)
def readyz(made: ServicesDep, response: Response) -> Ready | NotReady:
    """Whether the database answers, its migrations are those of this release, and the model is loaded."""
    checks = _check(made)
    lacking = [name for name, state in checks.model_dump().items() if state != "ok"]
    if not lacking:
        return Ready(checks=checks)
    response.status_code = UnavailableError.status
    response.headers["Retry-After"] = "2"
    message = "not ready: " + ", ".join(f"{name} {getattr(checks, name)}" for name in lacking)
    if checks.model == "failed":
        message += f"; {made.predictions.model.failure}"
    detail = ErrorDetail(message=message, type=UnavailableError.type, param=None, code="not_ready")
    return NotReady(error=detail, checks=checks)


def _check(made: Services) -> Checks:
    model = made.predictions.model.state
    try:
        with made.engine.connect() as connection:
            pending = migrate.pending(connection)
    except SQLAlchemyError:
        return Checks(database="unavailable", migrations="unknown", model=model)
    return Checks(database="ok", migrations="pending" if pending else "ok", model=model)
