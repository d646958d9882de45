"""Find and delete a tenant's tasks."""

from sqlalchemy.orm import Session

from app.db.models import Task, TaskVersion
from app.tasks import repository
from app.tasks.errors import task_not_found_error, task_not_ready_error, version_not_found_error


def get(session: Session, tenant_id: str, task_id: str) -> Task:
    """Return one task.

    Raises:
        NotFoundError: the tenant has no such task.
    """
    task = repository.get(session, tenant_id, task_id)
    if task is None:
        raise task_not_found_error()
    return task


def version(session: Session, tenant_id: str, task_id: str, number: int | None) -> TaskVersion:
    """Return one version of a task, the newest if `number` is None.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
        ConflictError: the task has no version yet.
    """
    task = get(session, tenant_id, task_id)
    row = repository.version(session, tenant_id, task.id, number)
    if row is None:
        raise task_not_ready_error() if number is None else version_not_found_error(number)
    return row


def newest_version(session: Session, tenant_id: str, task_id: str) -> TaskVersion | None:
    """Return the newest version of a task, None if it has none yet.

    Raises:
        NotFoundError: the tenant has no such task.
    """
    return repository.version(session, tenant_id, get(session, tenant_id, task_id).id, None)


def remove(session: Session, tenant_id: str, task_id: str) -> None:
    """Delete a task with everything that depends on it; a worker that tunes it finds its row gone and stops.

    Raises:
        NotFoundError: the tenant has no such task.
    """
    if not repository.remove(session, tenant_id, task_id):
        raise task_not_found_error()
