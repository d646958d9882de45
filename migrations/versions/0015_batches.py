"""Batches of requests below /openai/v1/batches."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_STATES = "state IN ('in_progress', 'cancelling', 'completed', 'cancelled', 'expired')"


def upgrade() -> None:
    moment = TIMESTAMP(timezone=True)
    op.create_table(
        "batches",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False, server_default=sa.text("'in_progress'")),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("input_file_id", sa.String, nullable=False),
        sa.Column("output_file_id", sa.String),
        sa.Column("error_file_id", sa.String),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("completed", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("failed", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("metadata", JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("lease_token", UUID),
        sa.Column("lease_until", moment),
        sa.Column("served_at", moment),
        sa.Column("created_at", moment, nullable=False, server_default=sa.text("now()")),
        sa.Column("expires_at", moment, nullable=False),
        sa.Column("cancelling_at", moment),
        sa.Column("finished_at", moment),
        sa.CheckConstraint(_STATES, name=op.f("ck_batches_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_batches_tenant_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_index("ix_batches_tenant_id_created_at_id", "batches", ["tenant_id", "created_at", "id"])
    op.create_index(
        "ix_batches_open", "batches", ["tenant_id"], postgresql_where=sa.text("state IN ('in_progress', 'cancelling')")
    )
    op.create_table(
        "batch_requests",
        sa.Column("batch_id", sa.String, nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("custom_id", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("response", sa.Text),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_batch_requests_batch_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "line", name="pk_batch_requests"),
    )
    op.create_index(
        "ix_batch_requests_open", "batch_requests", ["batch_id", "line"], postgresql_where=sa.text("status IS NULL")
    )


def downgrade() -> None:
    op.drop_table("batch_requests")
    op.drop_table("batches")
