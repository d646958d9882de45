"""Files in parts: the output of a large batch does not fit into one value."""

import sqlalchemy as sa
from alembic import op

from migrations import row_security

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_parts",
        sa.Column("file_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_file_parts_file_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("file_id", "number", name="pk_file_parts"),
    )
    row_security.protect_part("file_parts", "file_id", "files")


def downgrade() -> None:
    op.drop_table("file_parts")
