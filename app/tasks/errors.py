"""Errors about tasks that several nouns raise."""

from app.errors import ConflictError, NotFoundError


def task_not_found_error(param: str | None = "task_id") -> NotFoundError:
    """Return the error for a task that the tenant does not have; `param` is the request field that names it."""
    return NotFoundError("there is no task with this id", code="task_not_found", param=param)


def task_not_ready_error(param: str | None = "task_id") -> ConflictError:
    """Return the error for a task without a version; `param` is the request field that names the task."""
    return ConflictError(
        "no adaptation of this task has succeeded yet; GET /v1/adaptations shows their progress",
        code="task_not_ready",
        param=param,
    )


def version_not_found_error(number: int, param: str = "version") -> NotFoundError:
    """Return the error for a version that the task does not have; `param` is the request field that names it."""
    return NotFoundError(f"this task has no version {number} that can answer", code="version_not_found", param=param)
