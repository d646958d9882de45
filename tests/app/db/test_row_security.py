"""PostgreSQL itself hides other tenants' rows from a request, also from a query that lacks its filter by tenant."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from sqlalchemy import URL, Engine, event, func, select, text, update
from sqlalchemy.exc import DBAPIError

from app.db import migrate
from app.db.embedded_access import SERVICE_ROLE
from app.db.models import Adaptation, Task, Tenant
from app.db.row_security import ROLE
from app.db.session import make_engine, transaction
from app.db.tables import METADATA
from app.tasks import repository
from tests.support.service import adaptation_body
from tests.support.tables import fill_empty_tables

SHARED = {"subspaces", "workers", "schema_floor"}
OF_TENANTS = sorted(set(METADATA.tables) - SHARED)


@contextmanager
def recorded_statements() -> Iterator[list[str]]:
    """Record the statements of the process, without those of the loops that look for batches and webhooks."""
    statements: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "batches" not in statement and "webhook_deliveries" not in statement:
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def visible(engine: Engine, tenant_ids: list[str] | None) -> set[str]:
    """Return the tables in which a transaction sees rows."""
    with transaction(engine, tenant_ids) as session:
        counts = {name: session.scalar(select(func.count()).select_from(text(name))) for name in OF_TENANTS}
    return {name for name, count in counts.items() if count}


def test_a_query_without_a_filter_sees_only_the_tenants_of_its_transaction(engine: Engine) -> None:
    fill_empty_tables(engine)
    everything = set(OF_TENANTS)
    assert visible(engine, None) == everything
    assert visible(engine, ["default"]) == visible(engine, ["other", "default"]) == everything
    assert visible(engine, ["other"]) == visible(engine, []) == set()


def test_a_request_can_neither_change_nor_add_rows_of_another_tenant(engine: Engine) -> None:
    fill_empty_tables(engine)
    with transaction(engine, ["other"]) as session:
        changed = session.execute(update(Adaptation).values(state="cancelled").returning(Adaptation.id)).all()
    assert changed == []
    for tenant_ids, error in (["other"], psycopg.errors.InsufficientPrivilege), (["default"], None):
        with pytest.raises(DBAPIError) if error else _nothing() as raised, transaction(engine, tenant_ids) as session:
            session.add(Task(id=f"tsk_{tenant_ids[0]}", tenant_id="default", name="new"))
        assert error is None or isinstance(raised.value.orig, error)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_a_connection_loses_the_restriction_with_the_transaction(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    role = text("SELECT current_user, current_setting('ipt.tenant_ids', true)")
    for end in ("commit", "rollback"):
        with transaction(engine, ["other"]) as session:
            assert tuple(session.execute(role).one()) == (ROLE, "{other}")
            getattr(session, end)()
            with engine.connect() as connection:  # the pool's only open connection
                assert tuple(connection.execute(role).one()) == (SERVICE_ROLE, "")
    engine.dispose()


def test_the_services_role_is_no_superuser_and_owns_only_its_database(engine: Engine) -> None:
    with engine.connect() as connection:
        flags = connection.execute(
            text(
                "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb FROM pg_roles "
                "WHERE rolname = session_user OR rolname = :role ORDER BY rolname"
            ),
            {"role": ROLE},
        ).all()
        assert [tuple(row) for row in flags] == [(SERVICE_ROLE, False), (ROLE, False)]
        owned = text("SELECT count(*) FROM pg_class WHERE relowner = CAST(:role AS regrole)")
        assert connection.scalar(owned, {"role": ROLE}) == 0
        with pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text("CREATE ROLE further"))


def test_a_route_that_forgets_its_filter_answers_with_the_callers_tasks(
    new_client: Callable[[], httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_client(), new_client()
    tasks = [client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"] for client in (first, second)]
    monkeypatch.setattr(repository, "of_tenant", lambda _tenant: select(Task))
    assert [[task["id"] for task in client.get("/v1/tasks").json()["data"]] for client in (first, second)] == [
        [task] for task in tasks
    ]


def test_the_restriction_costs_a_request_one_statement(client: httpx.Client) -> None:
    created = client.post("/v1/adaptations", json=adaptation_body()).json()
    path = f"/v1/adaptations/{created['id']}"
    assert client.get(path).status_code == 200
    with recorded_statements() as statements:
        assert client.get(path).status_code == 200
    restrictions = [statement for statement in statements if "ipt.tenant_ids" in statement]
    assert (len(restrictions), len(statements)) == (1, 3), "key, restriction, row"


def test_a_database_without_the_roles_privileges_is_pending_until_it_is_migrated(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE}"))
    with engine.connect() as connection:
        assert migrate.schema_state(connection) == "pending"
    with pytest.raises(migrate.SchemaError, match="run `ipt migrate` first"):
        migrate.check_schema(engine)
    migrate.upgrade(engine)
    migrate.check_schema(engine)
    with transaction(engine, ["default"]) as session:
        assert session.scalars(select(Tenant.id)).all() == ["default"]


def test_a_user_who_may_not_create_the_role_is_told_what_an_administrator_has_to_run(
    engine: Engine, postgres_url: URL
) -> None:
    administrator = make_engine(postgres_url.render_as_string(hide_password=False))
    with administrator.begin() as connection:
        connection.execute(text(f"REVOKE {ROLE} FROM {SERVICE_ROLE}"))
    try:
        with pytest.raises(migrate.SchemaError, match=f"CREATE ROLE {ROLE} NOLOGIN"):
            migrate.upgrade(engine)
    finally:
        with administrator.begin() as connection:
            connection.execute(text(f"GRANT {ROLE} TO {SERVICE_ROLE}"))
        administrator.dispose()
    migrate.upgrade(engine)
