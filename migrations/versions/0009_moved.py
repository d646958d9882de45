"""Leave initial vectors out of the index for exact comparison; they have an index of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = ["tenant_id", "subspace_id"]


def upgrade() -> None:
    op.drop_index("ix_task_versions_tenant_id_subspace_id", "task_versions")
    op.create_index("ix_task_versions_moved", "task_versions", _COLUMNS, postgresql_where=sa.text("start IS NULL"))


def downgrade() -> None:
    op.drop_index("ix_task_versions_moved", "task_versions")
    op.create_index("ix_task_versions_tenant_id_subspace_id", "task_versions", _COLUMNS)
