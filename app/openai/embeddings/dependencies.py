"""Dependencies of the embeddings endpoint."""

from typing import Annotated

from fastapi import Depends, Request

from app.openai.embeddings.service import Embeddings


async def _embeddings(request: Request) -> Embeddings:
    embeddings: Embeddings = request.app.state.embeddings
    return embeddings


EmbeddingsDep = Annotated[Embeddings, Depends(_embeddings)]
