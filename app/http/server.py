"""uvicorn's server, which ends in peace however often it is told to."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.http.api import Api


class Server(uvicorn.Server):
    """Runs the app of `create_app`."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None = None) -> None:
        """`on_stop` is called when the server begins to stop: it tells others, and does not wait for them."""
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop; uvicorn's own breaks off at the second Ctrl-C, and raises every signal again at the end."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell others, and end the event streams, which would go on, before waiting for open responses."""
        if self._on_stop is not None:
            self._on_stop()
        app = self.config.app
        if isinstance(app, Api):
            app.stopping.set()
        await super().shutdown(sockets)
