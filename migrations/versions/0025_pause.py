"""Adaptations can be paused."""

import sqlalchemy as sa
from alembic import op

from migrations import concurrent_indexes

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_STATES = "state IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')"
_FORMER_STATES = "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')"


def upgrade() -> None:
    # First, since building an index ends the transaction: what precedes it would be done twice after a failure.
    concurrent_indexes.create(
        "ix_adaptations_paused", "adaptations", ["tenant_id"], postgresql_where=sa.text("state = 'paused'")
    )
    with op.get_context().autocommit_block():
        # Validated in a transaction of its own, which reads the table without stopping writes.
        _replace_constraint(f"{_STATES}) NOT VALID")
        op.execute("ALTER TABLE adaptations VALIDATE CONSTRAINT ck_adaptations_state")
    op.add_column("adaptations", sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false()))
    # As the trigger of an insert, whose foreign key locks the tenant: no transaction clears the column meanwhile.
    op.execute(
        "CREATE FUNCTION tenant_waits_again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM FROM tenants WHERE id = NEW.tenant_id FOR KEY SHARE; "
        "UPDATE tenants SET waiting_since = now() WHERE id = NEW.tenant_id AND waiting_since IS NULL; "
        "RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER waits_again AFTER UPDATE OF state ON adaptations FOR EACH ROW "
        "WHEN (OLD.state = 'paused' AND NEW.state = 'queued') EXECUTE FUNCTION tenant_waits_again()"
    )


def downgrade() -> None:
    op.execute("UPDATE adaptations SET state = 'queued' WHERE state = 'paused'")
    op.execute("DROP TRIGGER waits_again ON adaptations")
    op.execute("DROP FUNCTION tenant_waits_again")
    op.drop_column("adaptations", "pause_requested")
    _replace_constraint(f"{_FORMER_STATES})")
    concurrent_indexes.drop("ix_adaptations_paused", "adaptations")


def _replace_constraint(condition: str) -> None:
    op.execute(
        "ALTER TABLE adaptations DROP CONSTRAINT IF EXISTS ck_adaptations_state, "
        # The first migration's name.
        "DROP CONSTRAINT IF EXISTS ck_adaptations_ck_adaptations_state, "
        f"ADD CONSTRAINT ck_adaptations_state CHECK ({condition}"
    )
