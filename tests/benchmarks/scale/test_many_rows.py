import numpy as np
import psycopg
from sqlalchemy import Engine, select

from app.db.models import Task
from app.db.session import transaction
from benchmarks.scale.many_rows import copy_row, ids, names, numbers, texts


def test_a_row_is_copied_with_the_given_columns_changed(engine: Engine) -> None:
    with transaction(engine) as session:
        session.add(Task(id="tsk_template", tenant_id="default", name="tickets", last_version=7))
    new, tenants = ids("tsk", 3, np.random.default_rng(0)), ["default", "another", "athird1"]
    versions = numbers(np.arange(3), 4)
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        copy_row(
            connection,
            "tasks",
            ("id", "tsk_template"),
            {"id": new[:, :12], "tenant_id": texts(tenants), "last_version": versions},
        )
    with transaction(engine) as session:
        rows = session.scalars(select(Task).where(Task.id != "tsk_template").order_by(Task.last_version)).all()
    assert [row.id for row in rows] == names(new[:, :12])
    assert [(row.tenant_id, row.name, row.last_version) for row in rows] == [
        (tenant, "tickets", number) for number, tenant in enumerate(tenants)
    ]
