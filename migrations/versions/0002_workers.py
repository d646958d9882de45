"""A table of workers: when each was last seen, and the subspace that it tunes in."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("now()")
    op.create_table(
        "workers",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("subspace_id", sa.String),
        sa.Column("jobs", sa.Integer, nullable=False),
        sa.Column("started_at", TIMESTAMP(timezone=True), server_default=now, nullable=False),
        sa.Column("seen_at", TIMESTAMP(timezone=True), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def downgrade() -> None:
    op.drop_table("workers")
