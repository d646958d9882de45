"""First tables: tenants, API keys, subspaces, datasets, tasks and task versions, adaptations and their events."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KINDS = "kind IN ('classification', 'text2text')"
STATES = "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')"


def _created_at() -> sa.Column[object]:
    return _time("created_at", server_default=sa.text("now()"), nullable=False)


def _time(name: str, *, nullable: bool = True, server_default: sa.TextClause | None = None) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable, server_default=server_default)


def _json(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[object]:
    server_default = None if default is None else sa.text(f"'{default}'::jsonb")
    return sa.Column(name, JSONB, nullable=nullable, server_default=server_default)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String, nullable=nullable)


def _references(table: str, column: str, parent: str, *, cascade: bool = True) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_{column}"
    return sa.ForeignKeyConstraint([column], [f"{parent}.id"], name=name, ondelete="CASCADE" if cascade else None)


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table("tenants", _text("id"), _created_at(), sa.PrimaryKeyConstraint("id", name="pk_tenants"))
    op.execute("INSERT INTO tenants (id) VALUES ('default')")
    op.create_table(
        "api_keys",
        _text("id"),
        _text("tenant_id"),
        _text("prefix"),
        sa.Column("sha256", BYTEA, nullable=False),
        _created_at(),
        _time("revoked_at"),
        _references("api_keys", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
    )
    op.create_index("ix_api_keys_prefix", "api_keys", ["prefix"])
    op.create_table(
        "subspaces",
        _text("id"),
        sa.Column("intrinsic_dim", sa.Integer, nullable=False),
        sa.Column("prompt_length", sa.Integer, nullable=False),
        sa.Column("hidden_size", sa.Integer, nullable=False),
        _json("manifest"),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_subspaces"),
    )
    op.create_table(
        "datasets",
        _text("id"),
        _text("tenant_id"),
        _text("content_hash"),
        _json("examples"),
        _json("validation_examples", nullable=True),
        _created_at(),
        _references("datasets", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("tenant_id", "content_hash", name="uq_datasets_tenant_id_content_hash"),
    )
    op.create_table(
        "tasks",
        _text("id"),
        _text("tenant_id"),
        _text("name"),
        sa.Column("last_version", sa.Integer, server_default=sa.text("0"), nullable=False),
        _created_at(),
        _references("tasks", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
    )
    op.create_index("ix_tasks_tenant_id_created_at_id", "tasks", ["tenant_id", "created_at", "id"])
    _create_adaptations()
    _create_task_versions()


def _create_adaptations() -> None:
    op.create_table(
        "adaptations",
        _text("id"),
        _text("tenant_id"),
        _text("task_id"),
        sa.Column("task_version", sa.Integer, nullable=False),
        _text("dataset_id"),
        _text("subspace_id", nullable=True),
        _text("kind"),
        sa.Column("state", sa.String, server_default=sa.text("'queued'"), nullable=False),
        _json("hyperparameters"),
        _json("metadata", default="{}"),
        sa.Column("attempt", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("cancel_requested", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column("lease_token", sa.Uuid),
        _time("lease_until"),
        _text("worker_id", nullable=True),
        sa.Column("step", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("steps", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("checkpoint", BYTEA),
        _json("metrics", nullable=True),
        _json("warnings", default="[]"),
        _json("error", nullable=True),
        _text("idempotency_key", nullable=True),
        _text("body_hash"),
        _created_at(),
        _time("started_at"),
        _time("finished_at"),
        sa.CheckConstraint(KINDS, name="ck_adaptations_kind"),
        sa.CheckConstraint(STATES, name="ck_adaptations_state"),
        _references("adaptations", "tenant_id", "tenants"),
        _references("adaptations", "task_id", "tasks"),
        _references("adaptations", "dataset_id", "datasets", cascade=False),
        _references("adaptations", "subspace_id", "subspaces", cascade=False),
        sa.PrimaryKeyConstraint("id", name="pk_adaptations"),
        sa.UniqueConstraint("task_id", "task_version", name="uq_adaptations_task_id_task_version"),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_adaptations_tenant_id_idempotency_key"),
    )
    op.create_index("ix_adaptations_dataset_id", "adaptations", ["dataset_id"])
    op.create_index(
        "ix_adaptations_leases", "adaptations", ["lease_until"], postgresql_where=sa.text("state = 'running'")
    )
    op.create_index(
        "ix_adaptations_queued", "adaptations", ["created_at", "id"], postgresql_where=sa.text("state = 'queued'")
    )
    op.create_index("ix_adaptations_tenant_id_created_at_id", "adaptations", ["tenant_id", "created_at", "id"])
    op.create_table(
        "adaptation_events",
        _text("adaptation_id"),
        sa.Column("seq", sa.Integer, nullable=False),
        _text("type"),
        _json("data", default="{}"),
        _created_at(),
        _references("adaptation_events", "adaptation_id", "adaptations"),
        sa.PrimaryKeyConstraint("adaptation_id", "seq", name="pk_adaptation_events"),
    )


def _create_task_versions() -> None:
    op.create_table(
        "task_versions",
        _text("task_id"),
        sa.Column("version", sa.Integer, nullable=False),
        _text("tenant_id"),
        _text("adaptation_id"),
        _text("subspace_id"),
        _text("kind"),
        _json("labels"),
        sa.Column("vector", VECTOR(), nullable=False),
        sa.Column("readout", BYTEA),
        _json("metrics"),
        _created_at(),
        sa.CheckConstraint(KINDS, name="ck_task_versions_kind"),
        _references("task_versions", "tenant_id", "tenants"),
        _references("task_versions", "task_id", "tasks"),
        _references("task_versions", "adaptation_id", "adaptations"),
        _references("task_versions", "subspace_id", "subspaces", cascade=False),
        sa.PrimaryKeyConstraint("task_id", "version", name="pk_task_versions"),
        sa.UniqueConstraint("adaptation_id", name="uq_task_versions_adaptation_id"),
    )
    op.create_index("ix_task_versions_tenant_id_subspace_id", "task_versions", ["tenant_id", "subspace_id"])


def downgrade() -> None:
    # The extension stays, because other tables of the database may use it.
    tables = ("task_versions", "adaptation_events", "adaptations", "tasks", "datasets", "subspaces", "api_keys")
    for table in (*tables, "tenants"):
        op.drop_table(table)
