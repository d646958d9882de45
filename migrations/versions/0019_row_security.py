"""Row-level security: a transaction with the role `ipt_tenant` sees only the tenants in `ipt.tenant_ids`."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# The subquery is evaluated once for each statement. Without tenants the setting is null or empty, and nothing is seen.
_TENANT_IDS = "(SELECT NULLIF(current_setting('ipt.tenant_ids', true), '')::text[])::text[]"
_OF_TENANTS = ("api_keys", "datasets", "files", "batches", "tasks", "adaptations", "task_versions")
_CONDITIONS = dict.fromkeys(_OF_TENANTS, f"tenant_id = ANY({_TENANT_IDS})") | {
    "tenants": f"id = ANY({_TENANT_IDS})",
    # The subqueries are subject to the policies of the tables that they read.
    "adaptation_events": "EXISTS (SELECT FROM adaptations WHERE id = adaptation_id)",
    "batch_requests": "EXISTS (SELECT FROM batches WHERE id = batch_id)",
}


def upgrade() -> None:
    # The owner of the tables is exempt, and so are the releases before, workers and backups.
    for table, condition in _CONDITIONS.items():
        op.execute(f"CREATE POLICY tenant ON {table} USING ({condition})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    for table in _CONDITIONS:
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY tenant ON {table}")
