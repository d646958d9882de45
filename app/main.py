"""The app factory: `create_app()` for `uvicorn --factory`, `create_app(settings, database_url=…)` for `serve`."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import Depends, FastAPI
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State

import ipt
from app.adaptations.endpoints import router as adaptations
from app.adaptations.event_stream import OpenStreams
from app.api_keys.admission import Admission
from app.db import migrate
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
from app.http.api import Api
from app.http.body_limit import BodyLimit
from app.http.parameters import only_known_parameters
from app.http.patient_protocol import REQUEST_SECONDS
from app.http.request_context import RequestContext
from app.http.single_headers import SingleHeaders
from app.metrics.collector import StateCollector
from app.metrics.endpoints import router as metrics
from app.predictions.endpoints import router as predictions
from app.predictions.lookup import TaskLookup
from app.predictions.model import Model
from app.predictions.service import Predictions
from app.settings import Settings
from app.subspaces import repository as subspaces
from app.subspaces.endpoints import router as subspaces_router
from app.tasks.endpoints import router as tasks

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
            await asyncio.to_thread(_start, app.state, settings, database_url, patience, stack)
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
    app.state.settings = settings
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


def _start(state: State, settings: Settings, database_url: str | None, patience: Patience, stack: ExitStack) -> None:
    """Start what lives as long as the process and set it on `state`; `stack` stops it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    url = database_url or settings.database_url or stack.enter_context(embedded_postgres(settings.data_dir))
    state.engine = engine = make_engine(url, patience=patience)
    stack.callback(engine.dispose)
    # Every request waits for these two lookups, so they wait neither for other work's connections nor for ever.
    lookups = make_engine(url, pool_size=2, statement_seconds=LOOKUP_SECONDS, patience=patience)
    stack.callback(lookups.dispose)
    if settings.embedded:
        migrate.upgrade(engine)
    state.model = model = Model(settings, partial(_loaded, engine))
    stack.callback(gc.unfreeze)
    task_lookup = TaskLookup(lookups, model, settings.predict_cached_tasks)
    stack.callback(task_lookup.close)
    state.predictions = Predictions(settings, model, task_lookup)
    stack.callback(state.predictions.close)
    state.generations = Generations(settings, model, task_lookup)
    stack.callback(state.generations.close)
    state.admission = Admission(settings, lookups)
    stack.callback(state.admission.close)
    state.readiness = Readiness(engine)
    stack.callback(state.readiness.close)
    state.collector = StateCollector(engine, model)
    state.event_streams = OpenStreams(settings.max_event_streams)


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
