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
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import CliError, notices

if TYPE_CHECKING:
    import uvicorn

    from app.settings import Settings

# How long requests have to end once the service is to stop. The worker, told at the same time, has a little longer, and
# PostgreSQL stops after both: all of it within the ten seconds after which many a supervisor kills.
_GRACEFUL_SECONDS = 4


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; IPT_HOST, else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; IPT_PORT, else 8000.", min=0, max=65535)] = None,
    worker: Annotated[
        bool | None,
        typer.Option("--worker/--no-worker", help="Tune here as well; without IPT_DATABASE_URL, yes, else no."),
    ] = None,
) -> None:
    """Run the service until Ctrl-C.

    On one machine it needs nothing else: it runs its own PostgreSQL, in .ipt (IPT_DATA_DIR), and a worker.
    With IPT_DATABASE_URL it uses that database, and workers are run apart with `ipt worker`.

    \b
    ipt serve
    ipt serve --port 9000
    IPT_HOST=0.0.0.0 IPT_API_KEY=… ipt serve
    """
    from app.settings import Settings, SettingsError

    given: dict[str, Any] = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = Settings(**given)
    with_worker = settings.embedded if worker is None else worker
    try:
        settings.check_bind()
        if with_worker:
            settings.check_worker_beside()
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
        typer.Option("--celery/--poll", help="Be woken by Celery, or poll; with IPT_REDIS_URL woken, else polling."),
    ] = None,
) -> None:
    """Run a worker, which tunes what is queued, until SIGTERM or Ctrl-C. One for each device.

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
        raise CliError("--celery needs IPT_REDIS_URL, the broker's address")
    raise typer.Exit(main(["--poll"] if celery is False else []))


def migrate() -> None:
    """Bring the database that IPT_DATABASE_URL names up to date; several may run at once, and again does no harm.

    \b
    IPT_DATABASE_URL=postgresql://… ipt migrate
    """
    from app.settings import Settings

    settings = Settings()
    if settings.database_url is None:
        raise CliError("IPT_DATABASE_URL is not set; the embedded database is migrated when the service starts")
    _migrate(settings.database_url)
    notices().print("the database is up to date")


def _serve(settings: "Settings", with_worker: bool, stack: ExitStack) -> None:
    from app import logs
    from worker.supervisor import Supervisor

    listener = stack.enter_context(_listen(settings.host, settings.port))
    logs.configure(settings.log_format)
    logs.name_unknown_settings()
    # It tells every command that it runs, at the level of news.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    database_url = settings.database_url or _start_embedded_postgres(settings, stack)
    if settings.embedded:
        _migrate(database_url)
    supervisor = stack.enter_context(Supervisor(settings, database_url)) if with_worker else None
    # The two stop side by side; leaving the stack then waits for the worker.
    server = _server(settings, database_url, on_stop=None if supervisor is None else supervisor.request_stop)
    shown_host, shown_port = listener.getsockname()[:2]
    where = f"[{shown_host}]" if ":" in shown_host else shown_host
    kept = f"data in {settings.data_dir}, " if settings.embedded else ""
    if settings.log_format == "text":
        notices().print(f"http://{where}:{shown_port}  ({kept}API reference at /docs, Ctrl-C stops)", soft_wrap=True)
    _on_stop(server.handle_exit)
    try:
        server.run(sockets=[listener])
    finally:
        _on_stop(signal.SIG_IGN)
    if not server.started:
        raise CliError("the service could not start: the log above says why")


def _on_stop(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _interrupt_once(*_: object) -> None:
    # One Ctrl-C is enough: more of them must not cut short how the worker and the database are stopped.
    _on_stop(signal.SIG_IGN)
    raise KeyboardInterrupt


def _start_embedded_postgres(settings: "Settings", stack: ExitStack) -> str:
    """Its URL; `stack` stops it."""
    from app.db.embedded import EmbeddedDatabaseError, embedded_postgres

    # The service needs it in any case, and its seconds are those in which PostgreSQL starts.
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

    from app.http.patient_protocol import PatientProtocol
    from app.http.server import Server
    from app.main import create_app

    config = uvicorn.Config(
        create_app(settings, database_url=database_url),
        http=PatientProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    return Server(config, on_stop)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is started, so that a second service ends at once and touches nothing."""
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
                f"port {port} of {host} is in use, perhaps by another `ipt serve`: stop that one, or choose with --port"
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
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise CliError(f"the database cannot be migrated: {reason[0] if reason else type(error).__name__}") from error
    finally:
        engine.dispose()
