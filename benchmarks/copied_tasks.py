"""Copies of a tuned task in the database, since tuning each takes a minute."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import Engine, insert, inspect, select, text

from app.db.ids import new_id
from app.db.models import Adaptation, Base, Task, TaskVersion
from app.db.session import transaction


def copy_task(engine: Engine, task_id: str, count: int) -> list[str]:
    """Copy a task's rows under new ids with slightly different vectors; return the ids."""
    noise = np.random.default_rng(0)
    ids = [(new_id("tsk"), new_id("adp")) for _ in range(count)]
    with transaction(engine) as session:
        version = session.scalars(select(TaskVersion).where(TaskVersion.task_id == task_id)).one()
        task, record = session.get_one(Task, task_id), session.get_one(Adaptation, version.adaptation_id)
        vector = np.asarray(version.vector, dtype=np.float32)
        session.execute(insert(Task), [columns(task) | {"id": new} for new, _ in ids])
        records = [columns(record) | {"id": adaptation, "task_id": new} for new, adaptation in ids]
        session.execute(insert(Adaptation), records)
        changes = ({"task_id": new, "adaptation_id": adaptation} for new, adaptation in ids)
        moved = ({"vector": vector + 0.01 * noise.standard_normal(vector.shape), "start": None} for _ in ids)
        session.execute(insert(TaskVersion), [columns(version) | c | m for c, m in zip(changes, moved, strict=True)])
    return [new for new, _ in ids]


def columns(row: Base) -> dict[str, Any]:
    """Return a row's values by column name."""
    return {attribute.key: getattr(row, attribute.key) for attribute in inspect(type(row)).column_attrs}


def size(engine: Engine, *models: type[Base]) -> int:
    """Return the bytes of tables with their indexes and TOAST data."""
    with engine.connect() as connection:
        query = "SELECT pg_total_relation_size('{}')"
        return sum(connection.execute(text(query.format(model.__tablename__))).scalar_one() for model in models)
