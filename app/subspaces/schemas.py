"""Response bodies of subspaces."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.db.models import SubspaceRow


class SubspaceView(BaseModel):
    id: str = Field(description="a hash over everything that changes the meaning of a vector", examples=["sub_5f2b6c…"])
    object: Literal["subspace"] = "subspace"
    intrinsic_dim: int = Field(description="floats in a task vector", examples=[250])
    prompt_length: int = Field(description="positions of the soft prompt", examples=[16])
    hidden_size: int = Field(description="floats in one position of the soft prompt", examples=[384])
    loaded: bool = Field(description="whether this process has loaded it and tunes in it by default")
    manifest: dict[str, Any] = Field(description="the manifest file: backbone, training tasks and scores")
    created_at: datetime

    @classmethod
    def of(cls, row: SubspaceRow, loaded: Collection[str]) -> "SubspaceView":
        return cls(
            id=row.id,
            intrinsic_dim=row.intrinsic_dim,
            prompt_length=row.prompt_length,
            hidden_size=row.hidden_size,
            loaded=row.id in loaded,
            manifest=row.manifest,
            created_at=row.created_at,
        )
