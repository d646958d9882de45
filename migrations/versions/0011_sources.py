"""A column for how the files of an adaptation were read."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adaptations", sa.Column("source", JSONB))


def downgrade() -> None:
    op.drop_column("adaptations", "source")
