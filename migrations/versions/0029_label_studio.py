"""Tasks keep annotations of Label Studio until a version is tuned on them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("annotations", JSONB))


def downgrade() -> None:
    op.drop_column("tasks", "annotations")
