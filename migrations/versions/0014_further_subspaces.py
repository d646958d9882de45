"""The further subspaces in which a worker tunes: earlier defaults, and those of the operator's folders."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default, so that workers of the earlier release can go on inserting rows.
    further = sa.Column("further_subspace_ids", ARRAY(sa.Text), server_default=sa.text("'{}'"), nullable=False)
    op.add_column("workers", further)


def downgrade() -> None:
    op.drop_column("workers", "further_subspace_ids")
