"""Where an adaptation starts, and how its examples were changed from those of an earlier version."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adaptations", sa.Column("start_version", sa.Integer))
    op.add_column("adaptations", sa.Column("change", JSONB))


def downgrade() -> None:
    op.drop_column("adaptations", "change")
    op.drop_column("adaptations", "start_version")
