"""The calibration of a text-to-text version's confidences: slope and offset."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("task_versions", sa.Column("calibration", JSONB))


def downgrade() -> None:
    op.drop_column("task_versions", "calibration")
