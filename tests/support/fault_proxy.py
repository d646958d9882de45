"""A proxy between the service and PostgreSQL or Redis that loses, delays and holds back what passes."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy.engine import make_url

SOCKET = ".s.PGSQL.5432"
_DELAY_SECONDS = 0.005


class Fault(Enum):
    """What the proxy does with the bytes of its connections."""

    NONE = "forward everything"
    PARTITION = "end every connection and refuse new ones"
    HALF_OPEN = "accept everything from the service and send nothing back"
    DELAY = "hold everything back for a moment"
    LOSE_COMMIT = "end the connection in place of forwarding the next COMMIT of rows of the table"
    LOSE_COMMIT_REPLY = "forward that COMMIT, and end the connection in place of forwarding the reply"


class FaultProxy:
    """Forwards the connections of a Unix socket to the server's."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._fault = Fault.NONE
        self._insertion = b""
        self._healed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[Any]] = set()
        self.injected = 0
        """How many connections a fault has hit."""

    async def serve(self, socket: Path, ready: threading.Event, stop: asyncio.Event) -> None:
        """Listen on a Unix socket until `stop` is set."""
        async with await asyncio.start_unix_server(self._connected, socket):
            ready.set()
            await stop.wait()
            self._end_all()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def set(self, fault: Fault, table: str) -> None:
        """Change the fault; connections that were held back continue when there is none."""
        self._fault = fault
        # The service has other transactions too, for example to look for batches.
        self._insertion = f"INSERT INTO {table} ".encode()
        self._healed.clear()
        if fault is Fault.NONE:
            self._healed.set()
        if fault is Fault.PARTITION:
            self.injected += len(self._writers)
            self._end_all()

    def _end_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault is Fault.PARTITION:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        server_reader, server_writer = await asyncio.open_unix_connection(self._upstream)
        ends = {writer, server_writer}
        self._writers |= ends
        lost = asyncio.Event()
        directions = (
            asyncio.ensure_future(self._requests(reader, server_writer, lost)),
            asyncio.ensure_future(self._replies(server_reader, writer, lost)),
        )
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        for end in ends:
            end.transport.abort()
        self._writers -= ends
        self._connections.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        inserts = False
        while data := await reader.read(1 << 16):
            inserts |= self._insertion in data
            if b"COMMIT" in data:
                if inserts and self._fault in (Fault.LOSE_COMMIT, Fault.LOSE_COMMIT_REPLY):
                    self.injected += 1
                    fault, self._fault = self._fault, Fault.NONE
                    if fault is Fault.LOSE_COMMIT:
                        return
                    lost.set()
                inserts = False
            server.write(data)

    async def _replies(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if lost.is_set():
                return
            if self._fault is Fault.HALF_OPEN:
                self.injected += 1
                await self._healed.wait()
            if self._fault is Fault.DELAY:
                self.injected += 1
                await asyncio.sleep(_DELAY_SECONDS)
            client.write(data)


class RunningProxy:
    """A proxy from one Unix socket to another, in a thread of its own."""

    def __init__(self, upstream: Path, socket: Path) -> None:
        self._proxy = FaultProxy(upstream)
        self._socket = socket
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    @property
    def injected(self) -> int:
        """How many connections a fault has hit."""
        return self._proxy.injected

    def set(self, fault: Fault, table: str = "adaptations") -> None:
        """Change the fault; it holds when this returns. `table` is that of the COMMIT to lose."""
        self._call(self._proxy.set(fault, table))

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run until the block ends."""
        serve = self._proxy.serve(self._socket, self._ready, self._stop)
        thread = threading.Thread(target=self._loop.run_until_complete, args=(serve,), daemon=True)
        thread.start()
        assert self._ready.wait(30)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(30)
            assert not thread.is_alive()
            self._loop.close()


class DatabaseProxy(RunningProxy):
    """A proxy to a database."""

    def __init__(self, database_url: str, folder: Path) -> None:
        url = make_url(database_url)
        super().__init__(Path(str(url.query["host"])) / SOCKET, folder / SOCKET)
        self.database_url = url.update_query_dict({"host": str(folder)}).render_as_string(hide_password=False)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """An empty folder; paths in pytest's folders are too long for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def proxy(database_url: str, socket_folder: Path) -> Iterator[DatabaseProxy]:
    """A proxy to the test's database."""
    with DatabaseProxy(database_url, socket_folder).running() as proxy:
        yield proxy
