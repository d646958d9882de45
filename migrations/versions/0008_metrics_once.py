"""Drop the metrics of task versions, which duplicate those of their adaptations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("task_versions", "metrics")


def downgrade() -> None:
    op.add_column("task_versions", sa.Column("metrics", JSONB))
    op.execute(
        "UPDATE task_versions SET metrics = coalesce(adaptations.metrics, '{}') "
        "FROM adaptations WHERE adaptations.id = task_versions.adaptation_id"
    )
    op.alter_column("task_versions", "metrics", nullable=False)
