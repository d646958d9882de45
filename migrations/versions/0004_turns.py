"""Round robin among tenants: when each was last served, and an index of each tenant's queue in order."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEX = "ix_adaptations_queued"


def _order_queue_by(*columns: str) -> None:
    op.drop_index(_INDEX, "adaptations")
    op.create_index(_INDEX, "adaptations", columns, postgresql_where=sa.text("state = 'queued'"))


def upgrade() -> None:
    op.add_column("tenants", sa.Column("served_at", TIMESTAMP(timezone=True)))
    _order_queue_by("tenant_id", "created_at", "id")


def downgrade() -> None:
    _order_queue_by("created_at", "id")
    op.drop_column("tenants", "served_at")
