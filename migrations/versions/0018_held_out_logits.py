"""The logits that each version was measured on."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "held_out_logits",
        sa.Column("task_id", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("logits", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "version"],
            ["task_versions.task_id", "task_versions.version"],
            name="fk_held_out_logits_task_id_version",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_id", "version", name="pk_held_out_logits"),
    )


def downgrade() -> None:
    op.drop_table("held_out_logits")
