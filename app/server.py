"""uvicorn's server, which tells the app that it ends before it waits for open responses rather than after."""

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Runs the app of `create_app`; event streams, which would go on, end as soon as it is told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        if isinstance(app, FastAPI) and hasattr(app.state, "services"):
            app.state.services.ending.set()
        await super().shutdown(sockets)
