"""The app factory; it wires everything that lives as long as the process.

Use `create_app()` with `uvicorn --factory`, `create_app(settings, database_url=…)` from code.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import Depends, FastAPI
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import ipt
from app.adaptations.endpoints import router as adaptations
from app.adaptations.event_stream import OpenStreams
from app.adaptations.retuning import router as retuning
from app.api_keys.admission import Admission
from app.classifications.endpoints import router as classifications
from app.classifications.service import Classifications
from app.datasets.endpoints import router as datasets
from app.db import migrate
from app.db.client_timeout import ClientTimeout
from app.db.embedded import embedded_postgres
from app.db.server_timeouts import REQUEST_TIMEOUTS
from app.db.session import make_engine, transaction
from app.errors import (
    AuthenticationError,
    BadRequestError,
    BusyError,
    InvalidError,
    TooLargeError,
    TooSlowError,
    UnavailableError,
    UnsupportedMediaError,
    documented,
)
from app.evaluations.endpoints import router as evaluations
from app.examples.endpoints import router as examples
from app.fairness.fair_pool import FairPool
from app.generations.endpoints import router as generations_router
from app.generations.service import Generations
from app.health.endpoints import router as health
from app.health.readiness import Readiness
from app.http import api_reference, error_handlers
from app.http.body_limit import BodyLimit
from app.http.connection_limits import REQUEST_SECONDS
from app.http.openapi_document import RATE_LIMIT_HEADERS, Api
from app.http.plain_bodies import PlainBodies
from app.http.query_parameters import only_known_parameters
from app.http.request_context import RequestContext
from app.http.single_headers import SingleHeaders
from app.kept_texts.recorder import TextRecorder
from app.label_studio.endpoints import router as label_studio
from app.metrics.collector import StateCollector
from app.metrics.endpoints import router as metrics
from app.openai import dialect
from app.openai.batches.answering import BatchAnswering
from app.openai.batches.endpoints import router as openai_batches
from app.openai.batches.runner import BatchRunner
from app.openai.completions.answering import Answering
from app.openai.completions.endpoints import router as openai_completions
from app.openai.completions.service import Completions
from app.openai.embeddings.endpoints import router as openai_embeddings
from app.openai.embeddings.service import Embeddings
from app.openai.files.endpoints import router as openai_files
from app.openai.fine_tuning.endpoints import router as openai_fine_tuning
from app.openai.models.endpoints import router as openai_models
from app.openai.webhooks.deliverer import Deliverer
from app.openai.webhooks.endpoints import router as openai_webhooks
from app.openai.webhooks.sender import Sender
from app.predictions.endpoints import router as predictions
from app.predictions.models import Models
from app.predictions.service import Predictions
from app.predictions.task_lookup import TaskLookup
from app.promotion.endpoints import router as promotion
from app.queue.wake import Waker
from app.settings import Settings
from app.subspaces import repository as subspaces
from app.subspaces.coverage import Coverage
from app.subspaces.endpoints import router as subspaces_router
from app.suggestions.endpoints import router as suggestions
from app.tasks.endpoints import router as tasks
from app.usage.endpoints import router as usage
from app.usage.recorder import UsageRecorder

SWITCH_SECONDS = 0.0001
"""Interpreter switch interval, a fiftieth of the default: the model's thread waits this long for the lock, hundreds of
times for a prediction beside a thread that checks a dataset."""
ADMISSION_SECONDS = 10
"""Seconds after the body deadline before a connection with an incomplete request is closed."""
LOOKUP_SECONDS = 10
"""Statement timeout for the lookup of API keys and tasks."""

PARSED_BYTES = 64 * 1024
"""Bytes of a tenant's turn in the parsing of large bodies and datasets."""
CREATION_THREADS = 2
"""Threads that read datasets and create adaptations."""

log = logging.getLogger(__name__)

_DESCRIPTION = """
Adapts one frozen language model to many few-shot tasks. Send a few examples (`POST /v1/adaptations`), follow the
adaptation until its state is `succeeded`, then request predictions (`POST /v1/tasks/{task_id}/predict`).

Every error has the body `{"error": {"message", "type", "param", "code"}}`; programs should check `code`. Every response
has an `x-request-id`, which is yours if you send one.
"""


def create_app(settings: Settings | None = None, *, database_url: str | None = None) -> FastAPI:
    """Return the complete service.

    Args:
        settings: read from the environment if None.
        database_url: in the embedded mode, a database that the caller has started and keeps running.

    Raises:
        SettingsError: other machines could reach the service without an API key.
    """
    settings = settings or Settings()
    settings.check_bind()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, float]]:
        timeout = ClientTimeout()
        with ExitStack() as stack:
            await asyncio.to_thread(_start, app, settings, database_url, timeout, stack)
            stack.callback(timeout.shorten)
            background = [asyncio.create_task(runner.run()) for runner in (app.state.batches, app.state.webhooks)]
            try:
                yield {REQUEST_SECONDS: settings.max_body_seconds + ADMISSION_SECONDS}
            finally:
                for task in background:
                    task.cancel()
                await asyncio.wait(background)

    app = Api(
        title="Intrinsic prompt tuning",
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(only_known_parameters)],
        openapi_url=None,  # `api_reference` serves it
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.headers_of_prefix[dialect.PREFIX] = RATE_LIMIT_HEADERS | dialect.HEADERS
    error_handlers.install(app)
    responses = documented(
        [
            BadRequestError,
            AuthenticationError,
            TooSlowError,
            TooLargeError,
            UnsupportedMediaError,
            InvalidError,
            BusyError,
            UnavailableError,
        ]
    )
    # Predictions first, as the most frequent requests: routes are matched in this order.
    first = (predictions, classifications)
    of_tasks = (tasks, retuning, evaluations, examples, promotion, usage, suggestions, label_studio)
    for router in (*first, adaptations, datasets, *of_tasks, generations_router, subspaces_router):
        app.include_router(router, responses=responses)
    for router in (
        openai_completions,
        openai_embeddings,
        openai_batches,
        openai_files,
        openai_fine_tuning,
        openai_models,
        openai_webhooks,
    ):
        app.include_router(router, responses=dialect.RESPONSES)
    app.include_router(health)
    api_reference.install(app)
    app.include_router(metrics)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_seconds=settings.max_body_seconds)
    app.add_middleware(PlainBodies)
    app.add_middleware(SingleHeaders)
    app.add_middleware(dialect.OpenAIDialect)
    app.add_middleware(RequestContext)
    return app


def _start(app: Api, settings: Settings, database_url: str | None, timeout: ClientTimeout, stack: ExitStack) -> None:
    """Start everything that lives as long as the process and set it on the app's state; `stack` stops it."""
    state, stopping = app.state, app.stopping
    sys.setswitchinterval(SWITCH_SECONDS)
    url = database_url or settings.database_url or stack.enter_context(embedded_postgres(settings.data_dir))
    state.engine = engine = make_engine(url, server_timeouts=REQUEST_TIMEOUTS, client_timeout=timeout)
    stack.callback(engine.dispose)
    # Every request waits for a lookup of its key or task: lookups have connections of their own and a time limit.
    lookup_timeouts = replace(REQUEST_TIMEOUTS, statement=LOOKUP_SECONDS)
    lookups = make_engine(url, pool_size=2, server_timeouts=lookup_timeouts, client_timeout=timeout)
    stack.callback(lookups.dispose)
    if settings.embedded:
        migrations = make_engine(url, client_timeout=timeout)
        migrate.upgrade(migrations)
        migrations.dispose()
    state.models = models = Models(settings, partial(_on_loaded, engine))
    stack.callback(gc.unfreeze)
    task_lookup = TaskLookup(lookups, models, settings.predict_cached_tasks, settings.predict_cached_bytes)
    stack.callback(task_lookup.close)
    recorder, kept_texts = UsageRecorder(engine), TextRecorder(engine)
    stack.callback(_close_together, recorder, kept_texts)
    state.predictions = Predictions(settings, models, task_lookup, recorder, kept_texts)
    stack.callback(state.predictions.close)
    state.classifications = Classifications(settings, models, state.predictions)
    stack.callback(state.classifications.close)
    state.generations = Generations(settings, models, task_lookup)
    stack.callback(state.generations.close)
    completions = Completions(engine, models, task_lookup, state.predictions, state.generations)
    state.answering = Answering(settings, completions, stopping)
    state.embeddings = Embeddings(settings, models, state.predictions)
    state.admission = Admission(settings, lookups)
    stack.callback(state.admission.close)
    batch_answering = BatchAnswering(state.answering, state.embeddings)
    state.batches = BatchRunner(engine, state.admission.foreground, batch_answering)
    state.webhook_sender = Sender(settings.allowed_webhook_networks)
    stack.callback(state.webhook_sender.close)
    state.webhooks = Deliverer(engine, state.webhook_sender)
    state.parsing = FairPool("parse", threads=1, quantum=PARSED_BYTES)
    stack.callback(state.parsing.close)
    state.creations = FairPool("create", threads=CREATION_THREADS, quantum=PARSED_BYTES)
    stack.callback(state.creations.close)
    state.waker = None if settings.redis_url is None else Waker(settings.redis_url)
    if state.waker is not None:
        stack.callback(state.waker.close)
    coverage = Coverage(engine, models)
    state.readiness = Readiness(engine, coverage)
    stack.callback(state.readiness.close)
    state.collector = StateCollector(engine, models, coverage)
    state.event_streams = OpenStreams(settings.max_event_streams)


def _close_together(*recorders: UsageRecorder | TextRecorder) -> None:
    """Close recorders; with a database that does not answer, they wait at the same time."""
    for recorder in recorders:
        recorder.begin_close()
    for recorder in recorders:
        recorder.close()


def _on_loaded(engine: Engine, loaded: Sequence[ipt.Subspace]) -> None:
    for subspace in loaded:
        _register(engine, subspace)
    # The objects that exist now live until the end: excluding them from garbage collection shortens its pauses.
    gc.freeze()


def _register(engine: Engine, subspace: ipt.Subspace) -> None:
    try:
        with transaction(engine) as session:
            subspaces.register(session, subspace)
    except SQLAlchemyError as error:
        # Predictions do not need the row; the next process that loads the subspace adds it.
        log.warning("the subspace could not be registered: %s", type(error).__name__)


def _version() -> str:
    try:
        return version("intrinsic-prompt-tuning")
    except PackageNotFoundError:
        return "0"
