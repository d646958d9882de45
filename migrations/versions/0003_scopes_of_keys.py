"""API keys get a name, scopes and an expiry; existing keys may adapt and predict."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    scopes = sa.Column("scopes", ARRAY(sa.Text), server_default=sa.text("'{adapt,predict}'"), nullable=False)
    op.add_column("api_keys", sa.Column("name", sa.String))
    op.add_column("api_keys", scopes)
    op.add_column("api_keys", sa.Column("expires_at", TIMESTAMP(timezone=True)))
    # New keys must state their scopes.
    op.alter_column("api_keys", "scopes", server_default=None)
    op.create_check_constraint(
        op.f("ck_api_keys_scopes"), "api_keys", "scopes <@ ARRAY['adapt', 'predict', 'admin']::text[]"
    )


def downgrade() -> None:
    # Revoke restricted and expiring keys: without these columns they would allow more, and would not expire.
    op.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE revoked_at IS NULL"
        " AND (expires_at IS NOT NULL OR NOT scopes @> ARRAY['adapt', 'predict']::text[])"
    )
    for column in ("expires_at", "scopes", "name"):
        op.drop_column("api_keys", column)
