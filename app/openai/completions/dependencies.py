"""Dependencies of the completion endpoints."""

from typing import Annotated

from fastapi import Depends, Request

from app.openai.completions.service import Completions


async def _completions(request: Request) -> Completions:
    completions: Completions = request.app.state.completions
    return completions


CompletionsDep = Annotated[Completions, Depends(_completions)]
