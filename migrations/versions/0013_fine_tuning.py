"""A column for what a fine-tuning job of OpenAI's API was created with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adaptations", sa.Column("fine_tuning", JSONB))
    op.create_index(
        "ix_adaptations_fine_tuning",
        "adaptations",
        ["tenant_id", "created_at", "id"],
        postgresql_where=sa.text("fine_tuning IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_adaptations_fine_tuning", "adaptations")
    op.drop_column("adaptations", "fine_tuning")
