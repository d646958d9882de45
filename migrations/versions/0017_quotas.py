"""The size of each dataset, for quotas, and indexes of finished adaptations by age, for retention."""

import sqlalchemy as sa
from alembic import op

from migrations import concurrent_indexes

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # First, since building an index ends the transaction: what precedes it would be done twice after a failure.
    concurrent_indexes.create(
        "ix_adaptations_finished_at",
        "adaptations",
        ["finished_at", "id"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    concurrent_indexes.create(
        "ix_adaptations_unsuccessful",
        "adaptations",
        ["finished_at"],
        postgresql_where=sa.text("state IN ('failed', 'cancelled')"),
    )
    # With a default, so that the earlier release can go on inserting rows.
    op.add_column("datasets", sa.Column("size", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.execute(
        "UPDATE datasets SET size = octet_length(examples::text) + coalesce(octet_length(validation_examples::text), 0)"
    )


def downgrade() -> None:
    concurrent_indexes.drop("ix_adaptations_unsuccessful", "adaptations")
    concurrent_indexes.drop("ix_adaptations_finished_at", "adaptations")
    op.drop_column("datasets", "size")
