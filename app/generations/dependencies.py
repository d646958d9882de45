"""Dependencies of the generation endpoint."""

from typing import Annotated

from fastapi import Depends, Request

from app.generations.service import Generations


async def _generations(request: Request) -> Generations:
    generations: Generations = request.app.state.generations
    return generations


GenerationsDep = Annotated[Generations, Depends(_generations)]
