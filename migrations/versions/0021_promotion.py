"""Which version of a task answers, its canary, and hourly counts of its predictions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

from migrations import row_security

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("promotion", sa.String, nullable=False, server_default=sa.text("'always'")))
    op.add_column("tasks", sa.Column("promoted_version", sa.Integer))
    op.add_column("tasks", sa.Column("newest_at_promotion", sa.Integer))
    op.add_column("tasks", sa.Column("canary_version", sa.Integer))
    op.add_column("tasks", sa.Column("canary_share", sa.Float))
    op.create_check_constraint(op.f("ck_tasks_promotion"), "tasks", "promotion IN ('always', 'if_better', 'manual')")
    op.create_table(
        "task_usage",
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("hour", TIMESTAMP(timezone=True), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("score_sum", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_usage_task_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "hour", "version", "label", name="pk_task_usage"),
    )
    op.create_index("ix_task_usage_hour", "task_usage", ["hour"])
    row_security.protect_part("task_usage", "task_id", "tasks")


def downgrade() -> None:
    op.drop_table("task_usage")
    op.drop_constraint(op.f("ck_tasks_promotion"), "tasks")
    for column in ("canary_share", "canary_version", "newest_at_promotion", "promoted_version", "promotion"):
        op.drop_column("tasks", column)
