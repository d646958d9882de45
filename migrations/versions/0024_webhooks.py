"""Webhook endpoints, and the outbox that triggers fill when a fine-tuning job or a batch ends."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

from migrations import row_security

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = TIMESTAMP(timezone=True)
    now = sa.text("now()")
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("url", sa.String, nullable=False),
        sa.Column("event_types", ARRAY(sa.Text), nullable=False),
        sa.Column("secret", sa.String, nullable=False),
        sa.Column("former_secret", sa.String),
        sa.Column("former_secret_until", moment),
        sa.Column("last_error", sa.String),
        sa.Column("created_at", moment, nullable=False, server_default=now),
        sa.Column("updated_at", moment, nullable=False, server_default=now),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_webhook_endpoints_tenant_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
    )
    op.create_index(
        "ix_webhook_endpoints_tenant_id_created_at_id", "webhook_endpoints", ["tenant_id", "created_at", "id"]
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("endpoint_id", sa.String, nullable=False),
        sa.Column("event_id", sa.String, nullable=False),
        sa.Column("tenant_id", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("object_id", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("due_at", moment, nullable=False, server_default=now),
        sa.Column("lease_until", moment),
        sa.Column("created_at", moment, nullable=False, server_default=now),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name="fk_webhook_deliveries_endpoint_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_webhook_deliveries_tenant_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("endpoint_id", "event_id", name="pk_webhook_deliveries"),
    )
    op.create_index("ix_webhook_deliveries_due_at", "webhook_deliveries", ["due_at"])
    op.create_index(
        "ix_webhook_deliveries_leased",
        "webhook_deliveries",
        ["tenant_id"],
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    for table in ("webhook_endpoints", "webhook_deliveries"):
        row_security.protect(table)
    # The lock keeps an endpoint from being deleted before the insert, which would fail then, and with it the outcome.
    op.execute(
        "CREATE FUNCTION add_webhook_deliveries(tenant text, event_type text, object text) RETURNS void LANGUAGE sql "
        "AS $$ INSERT INTO webhook_deliveries (endpoint_id, event_id, tenant_id, type, object_id) "
        "SELECT id, 'evt_' || right(object, 24), tenant, event_type, object FROM webhook_endpoints "
        "WHERE tenant_id = tenant AND event_type = ANY(event_types) FOR KEY SHARE $$"
    )
    op.execute(
        "CREATE FUNCTION fine_tuning_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM add_webhook_deliveries(NEW.tenant_id, 'fine_tuning.job.' || NEW.state, 'ftjob-' || substr(NEW.id, 5));"
        " RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER webhooks AFTER UPDATE OF state ON adaptations FOR EACH ROW "
        "WHEN (NEW.fine_tuning IS NOT NULL AND OLD.state <> NEW.state "
        "AND NEW.state IN ('succeeded', 'failed', 'cancelled')) EXECUTE FUNCTION fine_tuning_job_ended()"
    )
    op.execute(
        "CREATE FUNCTION batch_ended() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM add_webhook_deliveries(NEW.tenant_id, 'batch.' || NEW.state, NEW.id); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER webhooks AFTER UPDATE OF state ON batches FOR EACH ROW "
        "WHEN (OLD.state <> NEW.state AND NEW.state IN ('completed', 'expired', 'cancelled')) "
        "EXECUTE FUNCTION batch_ended()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER webhooks ON batches")
    op.execute("DROP FUNCTION batch_ended")
    op.execute("DROP TRIGGER webhooks ON adaptations")
    op.execute("DROP FUNCTION fine_tuning_job_ended")
    op.execute("DROP FUNCTION add_webhook_deliveries")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_endpoints")
