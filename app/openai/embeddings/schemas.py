"""Request and response bodies of embeddings, with OpenAI's field names."""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from app.http.fields import Listed, Storable, StrictBody, Text

EncodingFormat = Literal["float", "base64"]


class EmbeddingInput(StrictBody):
    """Fields that OpenAI's API has besides these are ignored."""

    model: Annotated[Storable, Field(max_length=512)] = Field(
        description="a fine-tuned model, or a base model of `/models`; names of OpenAI's models stand for the latter",
        examples=["text-embedding-3-small"],
    )
    input: Text | Annotated[Listed[Text], Field(min_length=1)] = Field(description="one text, or several")
    encoding_format: EncodingFormat | None = Field(default=None, description="`float` by default")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(default=None, description="only the model's own number")

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingView(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="numbers, or the base64 of little-endian 32-bit floats")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsView(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingView]
    model: str
    usage: EmbeddingUsage

    @classmethod
    def of(cls, body: EmbeddingInput, embeddings: Sequence[NDArray[np.float32]], tokens: int) -> "EmbeddingsView":
        data = [
            EmbeddingView(index=index, embedding=_encoded(embedding, body.encoding_format))
            for index, embedding in enumerate(embeddings)
        ]
        return cls(data=data, model=body.model, usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens))


def _encoded(embedding: NDArray[np.float32], encoding: EncodingFormat | None) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
    numbers: list[float] = embedding.tolist()
    return numbers
