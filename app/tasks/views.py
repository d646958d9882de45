"""Views of tasks, with their newest versions."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.db.models import Task
from app.tasks import repository
from app.tasks.schemas import SHOWN_VERSIONS, TaskView


def task_views(session: Session, tenant_id: str, rows: Sequence[Task]) -> list[TaskView]:
    """Return the views of tasks, each with its newest version."""
    return _views(session, tenant_id, rows, versions=1)


def task_view(session: Session, task: Task) -> TaskView:
    """Return the view of one task, with its newest versions."""
    [view] = _views(session, task.tenant_id, [task], versions=SHOWN_VERSIONS)
    return view


def _views(session: Session, tenant_id: str, rows: Sequence[Task], versions: int) -> list[TaskView]:
    task_ids = [row.id for row in rows]
    newest = repository.newest_versions(session, tenant_id, task_ids, limit=versions)
    summaries = repository.summaries(session, tenant_id, task_ids)
    return [TaskView.of(row, newest[row.id], summaries[row.id]) for row in rows]
