"""Tenants may keep the texts that their tasks were asked."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

from migrations import row_security

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("keep_texts", sa.Boolean, nullable=False, server_default=sa.text("false")))
    op.create_table(
        "kept_texts",
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("kept_at", TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_kept_texts_task_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "digest", name="pk_kept_texts"),
    )
    op.create_index("ix_kept_texts_kept_at", "kept_texts", ["kept_at"])
    row_security.protect_part("kept_texts", "task_id", "tasks")


def downgrade() -> None:
    op.drop_table("kept_texts")
    op.drop_column("tenants", "keep_texts")
