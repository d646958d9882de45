"""Alembic migrations of the service's PostgreSQL schema; `app.db.migrate` runs them."""
