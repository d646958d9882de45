"""The commands that run the service: `serve`, `worker`, `migrate`."""

import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import without_none
from app.cli.output import CliError, notices

if TYPE_CHECKING:
    import uvicorn

    from app.settings import Settings

# Time for running requests after a stop signal. The worker, signalled at the same time, has a little longer, and
# PostgreSQL stops after both: all within ten seconds, after which many supervisors send SIGKILL.
_GRACEFUL_SECONDS = 4


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: IPT_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port. Default: IPT_PORT, or 8000.", min=0, max=65535)] = None,
    worker: Annotated[
        bool | None,
        typer.Option("--worker/--no-worker", help="Also run a worker. Default: only without IPT_DATABASE_URL."),
    ] = None,
) -> None:
    """Run the service until Ctrl-C.

    On one machine it needs nothing else: it runs its own PostgreSQL, with data in .ipt (IPT_DATA_DIR), and a worker.
    With IPT_DATABASE_URL it uses that database, and `ipt worker` runs workers separately.

    \b
    ipt serve
    ipt serve --port 9000
    IPT_BACKBONES=default,smollm2 ipt serve
    IPT_HOST=0.0.0.0 IPT_API_KEY=… ipt serve
    """
    from app.settings import Settings, SettingsError

    settings = Settings(**without_none(host=host, port=port))
    with_worker = settings.embedded if worker is None else worker
    try:
        settings.check_bind()
        if with_worker:
            settings.check_worker_beside()
        if len(settings.served_backbones) > 1:
            _check_memory(settings, processes=2 if with_worker else 1)
    except SettingsError as error:
        raise CliError(str(error)) from error
    _on_stop(_interrupt_once)
    try:
        with ExitStack() as stack:
            _serve(settings, with_worker, stack)
    except KeyboardInterrupt:
        pass
    if settings.log_format == "text":
        notices().print("stopped")


def worker(
    celery: Annotated[
        bool | None,
        typer.Option("--celery/--poll", help="Be woken by Celery, or poll. Default: Celery if IPT_REDIS_URL is set."),
    ] = None,
) -> None:
    """Run a worker, which tunes queued adaptations, until SIGTERM or Ctrl-C. Run one for each device.

    \b
    IPT_DATABASE_URL=postgresql://… ipt worker
    IPT_DATABASE_URL=postgresql://… IPT_REDIS_URL=redis://… ipt worker --celery
    """
    from app.settings import Settings
    from worker.__main__ import main

    settings = Settings()
    if settings.database_url is None:
        raise CliError("IPT_DATABASE_URL is not set; without it `ipt serve` runs the worker itself")
    if celery and settings.redis_url is None:
        raise CliError("--celery needs IPT_REDIS_URL, the address of the broker")
    raise typer.Exit(main(["--poll"] if celery is False else []))


def migrate() -> None:
    """Migrate the database of IPT_DATABASE_URL. Running it again, or several at once, is safe.

    \b
    IPT_DATABASE_URL=postgresql://… ipt migrate
    """
    from app.settings import Settings

    settings = Settings()
    if settings.database_url is None:
        raise CliError("IPT_DATABASE_URL is not set; the embedded database is migrated when the service starts")
    _migrate(settings.database_url)
    notices().print("the database is up to date")


def _check_memory(settings: "Settings", processes: int) -> None:
    """Check memory for all processes together: each one that loads would count what the others have not taken yet."""
    from ipt.backbones.loading import check_memory
    from ipt.errors import BackboneError

    backbones = [(served.backbone, served.revision) for served in settings.served_backbones]
    try:
        check_memory(backbones, settings.device, processes=processes)
    except BackboneError as error:
        raise CliError(error.message) from error


def _serve(settings: "Settings", with_worker: bool, stack: ExitStack) -> None:
    from app import logs
    from worker.supervisor import Supervisor

    listener = stack.enter_context(_listen(settings.host, settings.port))
    logs.configure(settings.log_format)
    logs.warn_of_unknown_settings()
    # Alembic logs every statement at level INFO.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    database_url = settings.database_url or _start_embedded_postgres(settings, stack)
    if settings.embedded:
        _migrate(database_url)
    else:
        _check_schema(database_url)
    supervisor = stack.enter_context(Supervisor(settings, database_url)) if with_worker else None
    # API and worker stop at the same time; leaving the stack then waits for the worker.
    server = _server(settings, database_url, on_stop=None if supervisor is None else supervisor.request_stop)
    shown_host, shown_port = listener.getsockname()[:2]
    url_host = f"[{shown_host}]" if ":" in shown_host else shown_host
    data = f"data in {settings.data_dir}, " if settings.embedded else ""
    if settings.log_format == "text":
        notices().print(f"http://{url_host}:{shown_port}  ({data}API reference at /docs, Ctrl-C stops)", soft_wrap=True)
    _on_stop(server.handle_exit)
    try:
        server.run(sockets=[listener])
    finally:
        _on_stop(signal.SIG_IGN)
    if not server.started:
        raise CliError("the service could not start; see the log above")


def _on_stop(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _interrupt_once(*_: object) -> None:
    # Further signals must not interrupt the stop of the worker and the database.
    _on_stop(signal.SIG_IGN)
    raise KeyboardInterrupt


def _start_embedded_postgres(settings: "Settings", stack: ExitStack) -> str:
    """Start PostgreSQL, which `stack` stops, and return its URL."""
    from app.db.embedded import EmbeddedDatabaseError, embedded_postgres

    # The import takes seconds, so it runs while PostgreSQL starts.
    importing = threading.Thread(target=import_module, args=("app.main",), name="import-service", daemon=True)
    importing.start()
    try:
        url = stack.enter_context(embedded_postgres(settings.data_dir))
    except EmbeddedDatabaseError as error:
        raise CliError(str(error)) from error
    importing.join()
    return url


def _server(settings: "Settings", database_url: str, on_stop: Callable[[], None] | None) -> "uvicorn.Server":
    import uvicorn

    from app.http.connection_limits import LimitedProtocol
    from app.http.server import Server
    from app.main import create_app

    config = uvicorn.Config(
        create_app(settings, database_url=database_url),
        http=LimitedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    return Server(config, on_stop)


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything else starts, so that a second service fails at once without side effects."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CliError(
                f"port {port} of {host} is in use, perhaps by another `ipt serve`: stop it, or change --port"
            ) from error
        raise CliError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def _migrate(database_url: str) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from app.db import migrate
    from app.db.session import make_engine

    engine = make_engine(database_url)
    try:
        migrate.upgrade(engine)
    except migrate.SchemaError as error:
        raise CliError(str(error)) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise CliError(f"the database cannot be migrated: {reason[0] if reason else type(error).__name__}") from error
    finally:
        engine.dispose()


def _check_schema(database_url: str) -> None:
    from app.db import migrate
    from app.db.session import make_engine

    engine = make_engine(database_url)
    try:
        migrate.check_schema(engine)
    except migrate.SchemaError as error:
        raise CliError(str(error)) from error
    finally:
        engine.dispose()
