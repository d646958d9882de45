"""`ipt tenants`: the operator lists, exports and deletes tenants."""

import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, text

from app.cli.root import run
from app.db.file_models import Batch
from app.db.ids import new_id
from app.db.models import Tenant
from app.db.session import transaction
from app.db.tables import METADATA
from app.openai.files import repository as files
from app.tenants import repository
from app.tenants.repository import OPERATORS_TABLES
from tests.support.cli import Captured
from tests.support.processes import until
from tests.support.tables import contents, fill_empty_tables

Tenants = Callable[..., int]


@pytest.fixture
def tenants(engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Tenants:
    """Run `ipt tenants` on a database in which the tenant `default` has a row in every table, and `other` a task."""
    fill_empty_tables(engine)
    with transaction(engine) as session:
        session.execute(text("INSERT INTO tenants (id) VALUES ('other')"))
        session.execute(text("INSERT INTO tasks (id, tenant_id, name) VALUES ('t', 'other', 'kept')"))
    monkeypatch.setenv("IPT_DATABASE_URL", database_url)
    return lambda *arguments: run(["tenants", *map(str, arguments)])


def tenant_tables() -> set[str]:
    return {table.name for table in METADATA.sorted_tables} - OPERATORS_TABLES


def test_every_table_is_exported_without_secrets(
    tenants: Tenants, engine: Engine, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "copy.jsonl"
    assert tenants("export", "default", path) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["table"] for line in lines} == tenant_tables()
    assert '"kept"' not in path.read_text()
    stored = contents(engine)
    for line in lines:
        if line["table"] not in ("api_keys", "webhook_endpoints"):
            assert line["row"] in stored[line["table"]]
        assert {"sha256", "secret", "former_secret"}.isdisjoint(line["row"])
    assert f"{len(lines)} rows" in capsys.readouterr().err


def test_an_export_has_one_row_in_memory(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(
            text("INSERT INTO files (id, tenant_id, filename, purpose, size, content) SELECT number, 'default', 'f',"
                 " 'batch', 1000000, convert_to(repeat('x', 1000000), 'UTF8') FROM generate_series(1, 20) AS number")
        )  # fmt: skip
        tracemalloc.start()
        try:
            sizes = [len(row["content"]) for table, row in repository.rows(session, "default") if table == "files"]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sizes == [2_000_002] * 20
    assert peak < 16_000_000


def test_texts_are_kept_for_a_tenant_that_is_switched_on(tenants: Tenants, capsys: Captured, engine: Engine) -> None:
    assert tenants("keep-texts", "other", "on") == 0
    assert "texts are kept" in capsys.readouterr().err
    assert tenants("keep-texts", "default", "off") == 0
    assert contents(engine)["kept_texts"] == []
    assert tenants("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["data"]
    assert {tenant["id"]: tenant["keep_texts"] for tenant in listed} == {"default": False, "other": True}
    assert tenants("keep-texts", "unknown", "on") == 1
    assert "no tenant" in capsys.readouterr().err


def test_a_deleted_tenant_leaves_no_row(tenants: Tenants, engine: Engine) -> None:
    before = contents(engine)
    assert tenants("delete", "default", "--yes") == 0
    after = contents(engine)
    assert {table for table in tenant_tables() if after[table]} == {"tenants", "tasks"}
    assert {row["id"] for row in after["tenants"]} == {"default", "other"}
    assert [row["name"] for row in after["tasks"]] == ["kept"]
    assert {table: after[table] for table in OPERATORS_TABLES} == {table: before[table] for table in OPERATORS_TABLES}
    assert tenants("delete", "other", "--yes") == 0
    assert [row["id"] for row in contents(engine)["tenants"]] == ["default"]


def test_tenants_are_listed(tenants: Tenants, capsys: Captured) -> None:
    assert tenants("list", "--json") == 0
    listed = {tenant["id"]: tenant for tenant in json.loads(capsys.readouterr().out)["data"]}
    assert listed.keys() == {"default", "other"}
    assert [listed["other"][name] for name in ("keys", "tasks", "adaptations", "bytes")] == [0, 1, 0, 0]
    assert [listed["default"][name] for name in ("keys", "tasks", "adaptations")] == [1, 1, 1]
    assert tenants("list") == 0
    assert "other" in capsys.readouterr().out


def test_deleting_needs_a_confirmation_and_a_tenant(tenants: Tenants, capsys: Captured, tmp_path: Path) -> None:
    assert tenants("delete", "other") == 1
    assert "give --yes" in capsys.readouterr().err
    unknown = new_id("tenant")
    for arguments in (["delete", unknown, "--yes"], ["export", unknown, tmp_path / "x.jsonl"]):
        assert tenants(*arguments) == 1
        assert "no tenant" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()


def test_a_tenant_is_deleted_while_one_of_its_batches_ends(engine: Engine) -> None:
    with transaction(engine) as session:
        session.add(Tenant(id="leaving"))
        session.flush()
        session.add(
            Batch(
                id="batch_1", tenant_id="leaving", endpoint="/v1/embeddings", input_file_id="file-1", total=1,
                expires_at=func.now(),
            )
        )  # fmt: skip

    def delete() -> None:
        with transaction(engine) as session:
            repository.remove(session, "leaving")

    def waits() -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with transaction(engine) as session:
            return session.execute(text(query)).scalar_one() == 1

    with ThreadPoolExecutor(1) as pool:
        with transaction(engine) as session:
            session.get_one(Batch, "batch_1", with_for_update=True)
            deletion = pool.submit(delete)
            until(waits)
            files.add(session, "leaving", filename="a", purpose="batch_output", content=b"", error=None, lifetime=None)
        deletion.result()
    with transaction(engine) as session:
        assert session.get(Tenant, "leaving") is None
