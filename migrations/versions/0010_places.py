"""A column for an adaptation's place in its tenant's queue, which may differ from the order of creation."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_INDEX = "ix_adaptations_queued"
_QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    column = sa.Column("queued_at", TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("now()"))
    op.add_column("adaptations", column)
    # Finished adaptations are in no queue, and there may be very many, so they are not updated.
    op.execute("UPDATE adaptations SET queued_at = created_at WHERE state IN ('queued', 'running')")
    op.drop_index(_INDEX, "adaptations")
    op.create_index(_INDEX, "adaptations", ["tenant_id", "queued_at", "id"], postgresql_where=_QUEUED)


def downgrade() -> None:
    op.drop_index(_INDEX, "adaptations")
    op.create_index(_INDEX, "adaptations", ["tenant_id", "created_at", "id"], postgresql_where=_QUEUED)
    op.drop_column("adaptations", "queued_at")
