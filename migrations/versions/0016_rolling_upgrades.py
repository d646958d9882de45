"""Cheap heartbeats, an index for tasks by subspace, and the oldest release that can work with the schema."""

import sqlalchemy as sa
from alembic import op

from migrations import concurrent_indexes

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    # First, since building an index ends the transaction: what precedes it would be done twice after a failure.
    concurrent_indexes.create("ix_adaptations_running", "adaptations", ["tenant_id"], postgresql_where=_RUNNING)
    concurrent_indexes.drop("ix_adaptations_leases", "adaptations")
    concurrent_indexes.create("ix_task_versions_subspace_id", "task_versions", ["subspace_id"])
    # Renewing a lease then changes no indexed column and finds room on its page (a HOT update).
    op.execute("ALTER TABLE adaptations SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)")
    op.create_table("schema_floor", sa.Column("oldest", sa.String, nullable=False))
    op.create_primary_key("pk_schema_floor", "schema_floor", ["oldest"])
    op.execute("INSERT INTO schema_floor VALUES ('0013')")


def downgrade() -> None:
    concurrent_indexes.drop("ix_task_versions_subspace_id", "task_versions")
    concurrent_indexes.create("ix_adaptations_leases", "adaptations", ["lease_until"], postgresql_where=_RUNNING)
    concurrent_indexes.drop("ix_adaptations_running", "adaptations")
    op.execute("ALTER TABLE adaptations RESET (fillfactor, autovacuum_vacuum_scale_factor)")
    op.drop_table("schema_floor")
