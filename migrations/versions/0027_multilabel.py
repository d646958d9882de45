"""Tasks may have several labels at once."""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_TABLES = ("adaptations", "task_versions")


def upgrade() -> None:
    for table in _TABLES:
        with op.get_context().autocommit_block():
            # Validated in a transaction of its own, which reads the table without stopping writes.
            _replace_constraint(table, "kind IN ('classification', 'multilabel', 'text2text')) NOT VALID")
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_kind")


def downgrade() -> None:
    op.execute("DELETE FROM tasks WHERE id IN (SELECT task_id FROM adaptations WHERE kind = 'multilabel')")
    for table in _TABLES:
        _replace_constraint(table, "kind IN ('classification', 'text2text'))")


def _replace_constraint(table: str, condition: str) -> None:
    op.execute(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS ck_{table}_kind, "
        # The first migration's name.
        f"DROP CONSTRAINT IF EXISTS ck_{table}_ck_{table}_kind, "
        f"ADD CONSTRAINT ck_{table}_kind CHECK ({condition}"
    )
