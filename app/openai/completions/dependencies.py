"""Dependencies of the completion endpoints."""

from typing import Annotated

from fastapi import Depends, Request

from app.openai.completions.answering import Answering


async def _answering(request: Request) -> Answering:
    answering: Answering = request.app.state.answering
    return answering


AnsweringDep = Annotated[Answering, Depends(_answering)]
