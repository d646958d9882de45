"""An index of waiting tenants in turn order, so that a claim does not read every tenant's queue."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("waiting_since", TIMESTAMP(timezone=True)))
    # A trigger, so that every insert sets the column, also one by an older release. It fires after the foreign key
    # check, which locks the tenant's row, so that no transaction clears the column in the meantime.
    op.execute(
        "CREATE FUNCTION tenant_waits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE tenants SET waiting_since = now() WHERE id = NEW.tenant_id AND waiting_since IS NULL; "
        "RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER waits AFTER INSERT ON adaptations FOR EACH ROW WHEN (NEW.state = 'queued') "
        "EXECUTE FUNCTION tenant_waits()"
    )
    op.execute(
        "UPDATE tenants SET waiting_since = now() WHERE id IN "
        "(SELECT tenant_id FROM adaptations WHERE state = 'queued' UNION"
        " SELECT tenant_id FROM adaptations WHERE state = 'running')"
    )
    op.create_index(
        "ix_tenants_waiting",
        "tenants",
        [sa.text("served_at NULLS FIRST"), "waiting_since"],
        postgresql_where=sa.text("waiting_since IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_tenants_waiting", "tenants")
    op.execute("DROP TRIGGER waits ON adaptations")
    op.execute("DROP FUNCTION tenant_waits")
    op.drop_column("tenants", "waiting_since")
