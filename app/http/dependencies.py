"""Dependencies for all endpoints: the settings, and the signal that the server is stopping."""

import threading
from typing import Annotated

from fastapi import Depends, Request

from app.settings import Settings


def settings_of(request: Request) -> Settings:
    """Return the settings of the process."""
    settings: Settings = request.app.state.settings
    return settings


async def _settings(request: Request) -> Settings:
    return settings_of(request)


async def _stopping(request: Request) -> threading.Event:
    stopping: threading.Event = request.app.stopping
    return stopping


# Every dependency is a coroutine: FastAPI runs a plain function in a thread, and each request would wait for one.
SettingsDep = Annotated[Settings, Depends(_settings)]
StoppingDep = Annotated[threading.Event, Depends(_stopping)]
"""Set once the server has been told to stop: responses without an end of their own must end now."""
