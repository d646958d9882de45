"""Response bodies of models, with OpenAI's field names."""

from typing import Literal

from pydantic import BaseModel

from app.db.models import Task
from app.openai import names
from app.openai.pages import seconds


class ModelView(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str

    @classmethod
    def of(cls, task: Task, backbone: str) -> "ModelView":
        name = names.fine_tuned_model(backbone, task.tenant_id, task.name, task.id)
        return cls(id=name, created=seconds(task.created_at), owned_by=task.tenant_id)

    @classmethod
    def of_backbone(cls, backbone: str) -> "ModelView":
        return cls(id=backbone, created=0, owned_by=names.BASE_MODEL_OWNER)


class ModelsView(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelView]


class DeletedModelView(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
