"""Decide which version of a task answers: promote one, roll back, choose a policy, and send a share to a canary."""

from sqlalchemy.orm import Session

from app.db.models import Task
from app.promotion.schemas import TaskChange
from app.tasks import repository
from app.tasks.errors import task_not_found_error, version_not_found_error


def promote(session: Session, tenant_id: str, task_id: str, number: int) -> Task:
    """Make a version answer; while the task's promotion is `always`, until a newer one than all that exist.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
    """
    task = _lock(session, tenant_id, task_id)
    _check_version(session, task, number, "version")
    _promote(session, task, number)
    if task.canary_version == number:
        task.canary_version = task.canary_share = None
    return task


def change(session: Session, tenant_id: str, task_id: str, body: TaskChange) -> Task:
    """Change when new versions answer, the canary and the thresholds. The version that answers now goes on answering.

    Raises:
        NotFoundError: the tenant has no such task, or the task does not have the version of the canary.
    """
    task = _lock(session, tenant_id, task_id)
    if body.promote is not None and body.promote != task.promotion:
        answering = repository.summaries(session, tenant_id, [task_id])[task_id].answering
        if answering is not None:
            _promote(session, task, answering)
        task.promotion = body.promote
    if "canary" in body.model_fields_set:
        if body.canary is not None:
            _check_version(session, task, body.canary.version, "canary.version")
        task.canary_version = None if body.canary is None else body.canary.version
        task.canary_share = None if body.canary is None else body.canary.share
    for name in body.model_fields_set & {"min_score", "min_in_scope"}:
        setattr(task, name, getattr(body, name))
    return task


def _lock(session: Session, tenant_id: str, task_id: str) -> Task:
    query = repository.of_tenant(tenant_id).where(Task.id == task_id)
    task = session.scalar(query.with_for_update(key_share=True))
    if task is None:
        raise task_not_found_error()
    return task


def _check_version(session: Session, task: Task, number: int, param: str) -> None:
    if repository.version(session, task.tenant_id, task.id, number) is None:
        raise version_not_found_error(number, param)


def _promote(session: Session, task: Task, number: int) -> None:
    newest = repository.version(session, task.tenant_id, task.id, None)
    task.promoted_version = number
    task.newest_at_promotion = None if newest is None else newest.version
