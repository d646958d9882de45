"""Row-level security: a transaction with the role `ipt_tenant` sees only the tenants in `ipt.tenant_ids`."""

from migrations import row_security

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_OF_TENANTS = ("api_keys", "datasets", "files", "batches", "tasks", "adaptations", "task_versions")
_PARTS = {
    "adaptation_events": ("adaptation_id", "adaptations"),
    "batch_requests": ("batch_id", "batches"),
    "held_out_logits": ("task_id", "tasks"),
}


def upgrade() -> None:
    row_security.protect("tenants", "id")
    for table in _OF_TENANTS:
        row_security.protect(table)
    for table, (column, whole) in _PARTS.items():
        row_security.protect_part(table, column, whole)


def downgrade() -> None:
    for table in ("tenants", *_OF_TENANTS, *_PARTS):
        row_security.unprotect(table)
