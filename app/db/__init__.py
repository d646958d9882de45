"""PostgreSQL: tables, transactions, migrations and the embedded server."""
