"""uvicorn's server, with a graceful shutdown that repeated signals do not cut short."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.http.openapi_document import Api


class Server(uvicorn.Server):
    """Runs the app of `create_app`."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None = None) -> None:
        """`on_stop` is called when shutdown begins; it must not block."""
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to shut down. uvicorn's own handler aborts at the second Ctrl-C and re-raises signals at the end."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `on_stop` and end the event streams, which have no end of their own, then wait for open responses."""
        if self._on_stop is not None:
            self._on_stop()
        app = self.config.app
        if isinstance(app, Api):
            app.stopping.set()
        await super().shutdown(sockets)
