"""What a version needs to tell which texts belong to no label."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("task_versions", sa.Column("scope", sa.LargeBinary))


def downgrade() -> None:
    op.drop_column("task_versions", "scope")
