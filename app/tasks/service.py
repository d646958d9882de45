"""Find, compare and delete a tenant's tasks."""

from sqlalchemy.orm import Session

from app.db.models import Task, TaskVersion
from app.errors import ConflictError, NotFoundError
from app.tasks import repository


def get(session: Session, tenant_id: str, task_id: str) -> Task:
    """One task.

    Raises:
        NotFoundError: the tenant has none of this id.
    """
    task = repository.get(session, tenant_id, task_id)
    if task is None:
        raise _not_found()
    return task


def version(session: Session, tenant_id: str, task_id: str, number: int | None) -> TaskVersion:
    """One version of a task, the newest without a number.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
        ConflictError: the task has no version yet.
    """
    task = get(session, tenant_id, task_id)
    row = repository.version(session, tenant_id, task.id, number)
    if row is None and number is not None:
        raise NotFoundError(
            f"this task has no version {number} that can answer", code="version_not_found", param="version"
        )
    if row is None:
        raise ConflictError(
            "no adaptation of this task has succeeded yet; see GET /v1/adaptations for how far it is",
            code="task_not_ready",
            param="task_id",
        )
    return row


def remove(session: Session, tenant_id: str, task_id: str) -> None:
    """Delete a task and all that hangs on it; a worker that is tuning it finds its row gone and stops.

    Raises:
        NotFoundError: the tenant has none of this id.
    """
    if not repository.remove(session, tenant_id, task_id):
        raise _not_found()


def _not_found() -> NotFoundError:
    return NotFoundError("there is no task with this id", code="task_not_found", param="task_id")
