"""The app factory: `create_app()` for `uvicorn --factory`, `create_app(settings, database_url=…)` for `serve`."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import Depends, FastAPI
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import ipt
from app.adaptations.endpoints import router as adaptations
from app.adaptations.event_stream import OpenStreams
from app.api_keys import service as api_keys
from app.api_keys.dependencies import Services, only_known_parameters
from app.api_keys.service import Caller
from app.db import migrate
from app.db.coalescer import Coalescer
from app.db.embedded import embedded_postgres
from app.db.patience import Patience
from app.db.session import make_engine, transaction
from app.errors import (
    AuthenticationError,
    BadRequestError,
    BusyError,
    InvalidError,
    TooLargeError,
    TooSlowError,
    UnavailableError,
    documented,
)
from app.generations.endpoints import router as generations_router
from app.generations.service import Generations
from app.health.endpoints import router as health
from app.health.readiness import Readiness
from app.http import api_reference, error_handlers
from app.http.body_limit import BodyLimit
from app.http.openapi import Api
from app.http.patient_protocol import REQUEST_SECONDS
from app.http.rate_limit import RateLimit
from app.http.request_context import RequestContext
from app.http.single_headers import SingleHeaders
from app.metrics.collector import StateCollector
from app.metrics.endpoints import router as metrics
from app.predictions.endpoints import router as predictions
from app.predictions.model import Model
from app.predictions.service import Predictions
from app.settings import Settings
from app.subspaces import repository as subspaces
from app.subspaces.endpoints import router as subspaces_router
from app.tasks.endpoints import router as tasks

KEYS_TOGETHER = 256
"""API keys that are looked up together."""
SWITCH_SECONDS = 0.0005
"""How long a thread may keep others from running Python: a tenth of the usual, since the model's waits so often."""
ADMISSION_SECONDS = 10
"""What a request may take beside its body, until its connection is closed by a server that is patient no longer."""
LOOKUP_SECONDS = 10
"""After which a lookup of keys or tasks is given up."""

log = logging.getLogger(__name__)

_DESCRIPTION = """
Adapts one frozen language model to many few-shot tasks. Send a few examples (`POST /v1/adaptations`), follow the
adaptation until it has `succeeded`, then ask its task (`POST /v1/tasks/{task_id}/predict`).

Every error has the shape `{"error": {"message", "type", "param", "code"}}`; programs look at `code`. Every answer has
an `x-request-id`, yours if you sent one.
"""


def create_app(settings: Settings | None = None, *, database_url: str | None = None) -> FastAPI:
    """The service, complete.

    Args:
        settings: read from the environment when None.
        database_url: a database that the caller has started for the embedded mode, and keeps running.

    Raises:
        SettingsError: settings that would open the service to others without a key.
    """
    settings = settings or Settings()
    settings.check_bind()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, float]]:
        patience = Patience()
        with ExitStack() as stack:
            made = await asyncio.to_thread(_start, settings, database_url, patience, stack)
            app.state.services = made
            app.state.readiness = readiness = Readiness(made.engine)
            stack.callback(readiness.close)
            stack.callback(patience.hurry)
            yield {REQUEST_SECONDS: settings.max_body_seconds + ADMISSION_SECONDS}

    app = Api(
        title="Intrinsic prompt tuning",
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(only_known_parameters)],
        docs_url=None,
        redoc_url=None,
    )
    error_handlers.install(app)
    of_v1 = documented(
        [
            BadRequestError,
            AuthenticationError,
            TooSlowError,
            TooLargeError,
            InvalidError,
            BusyError,
            UnavailableError,
        ]
    )
    # Predictions first: a request's route is looked for in this order.
    for router in (predictions, adaptations, tasks, generations_router, subspaces_router):
        app.include_router(router, responses=of_v1)
    app.include_router(health)
    api_reference.install(app)
    app.include_router(metrics)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_seconds=settings.max_body_seconds)
    app.add_middleware(SingleHeaders)
    app.add_middleware(RequestContext)
    return app


def _start(settings: Settings, database_url: str | None, patience: Patience, stack: ExitStack) -> Services:
    """Start what lives as long as the process; `stack` ends it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    url = database_url or settings.database_url or stack.enter_context(embedded_postgres(settings.data_dir))
    engine = make_engine(url, patience=patience)
    stack.callback(engine.dispose)
    # Every request waits for these two lookups, so they wait neither for other work's connections nor for ever.
    lookups = make_engine(url, pool_size=2, statement_seconds=LOOKUP_SECONDS, patience=patience)
    stack.callback(lookups.dispose)
    if settings.embedded:
        migrate.upgrade(engine)
    model = Model(settings, partial(_loaded, engine))
    stack.callback(gc.unfreeze)
    predictions = Predictions(settings, lookups, model)
    stack.callback(predictions.close)
    generations = Generations(settings, predictions)
    stack.callback(generations.close)
    callers = Coalescer(partial(_callers_with, lookups), name="api-keys", most=KEYS_TOGETHER)
    stack.callback(callers.close)
    per_minute = settings.requests_per_minute
    rate_limit = None if per_minute is None else RateLimit(per_minute, settings.redis_url)
    state, streams = StateCollector(engine, model), OpenStreams(settings.max_event_streams)
    return Services(settings, engine, predictions, generations, state, streams, callers, rate_limit)


def _callers_with(engine: Engine, keys: Sequence[str]) -> list[Caller | None]:
    with transaction(engine) as session:
        return api_keys.callers_with(session, keys)


def _loaded(engine: Engine, subspace: ipt.Subspace) -> None:
    _register(engine, subspace)
    # What is there by now stays: the garbage collector need not look through it again, with everybody waiting.
    gc.freeze()


def _register(engine: Engine, subspace: ipt.Subspace) -> None:
    try:
        with transaction(engine) as session:
            subspaces.register(session, subspace)
    except SQLAlchemyError as error:
        # Answering needs no row; whichever process next reaches the database adds it.
        log.warning("the subspace could not be registered: %s", type(error).__name__)


def _version() -> str:
    try:
        return version("intrinsic-prompt-tuning")
    except PackageNotFoundError:
        return "0"
