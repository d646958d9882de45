"""Policies of row-level security: which rows a transaction with the role `ipt_tenant` sees and may write."""

from alembic import op

# The subquery is evaluated once for each statement. Without tenants the setting is null or empty, and nothing is seen.
_TENANT_IDS = "(SELECT NULLIF(current_setting('ipt.tenant_ids', true), '')::text[])::text[]"


def protect(table: str, column: str = "tenant_id") -> None:
    """Show a table's rows only to the tenant that the column names; the owner of the table is exempt."""
    _create(table, f"{column} = ANY({_TENANT_IDS})")


def protect_part(table: str, column: str, whole: str) -> None:
    """Show a table's rows with the row of the table `whole` that the column names, which has a policy of its own."""
    _create(table, f"EXISTS (SELECT FROM {whole} WHERE {whole}.id = {table}.{column})")


def _create(table: str, condition: str) -> None:
    op.execute(f"CREATE POLICY tenant ON {table} USING ({condition})")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def unprotect(table: str) -> None:
    """Undo either."""
    op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute(f"DROP POLICY tenant ON {table}")
