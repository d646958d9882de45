"""Dependencies of the metrics endpoint."""

from typing import Annotated

from fastapi import Depends, Request

from app.metrics.collector import StateCollector


async def _collector(request: Request) -> StateCollector:
    collector: StateCollector = request.app.state.collector
    return collector


StateCollectorDep = Annotated[StateCollector, Depends(_collector)]
