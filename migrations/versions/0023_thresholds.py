"""The thresholds below which a task answers no label."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("min_score", sa.Float))
    op.add_column("tasks", sa.Column("min_in_scope", sa.Float))


def downgrade() -> None:
    op.drop_column("tasks", "min_in_scope")
    op.drop_column("tasks", "min_score")
