"""The contents of all tables, and rows to fill empty tables with."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Engine, MetaData, inspect, text

Contents = dict[str, list[dict[str, Any]]]


def contents(engine: Engine) -> Contents:
    """Return every row of every table."""
    tables = set(inspect(engine).get_table_names()) - {"alembic_version"}
    with engine.connect() as connection:
        rows = {name: connection.scalars(text(f"SELECT to_jsonb(t) FROM {name} t ORDER BY 1")).all() for name in tables}
    return {name: list(table_rows) for name, table_rows in rows.items()}


def common(one: Contents, other: Contents) -> Contents:
    """Return `one`, restricted to the tables and columns that `other` has too."""
    return {
        table: [{column: value for column, value in row.items() if column in other[table][0]} for row in rows]
        for table, rows in one.items()
        if table in other
    }


def fill_empty_tables(engine: Engine) -> None:
    """Insert a row into every empty table, with a value in each column."""
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            if connection.execute(table.select()).first() is None:
                connection.execute(table.insert().values({column.name: value_for(column) for column in table.columns}))


def value_for(column: Column[Any]) -> Any:
    """Return a value that the column accepts; a foreign key refers to a row that exists."""
    for key in column.foreign_keys:
        return "default" if key.column.table.name == "tenants" else value_for(key.column)
    by_name = {
        "kind": "classification",
        "state": "succeeded",
        "scopes": ["adapt"],
        "vector": [1.0, 2.0],
        "promotion": "manual",
    }
    by_name["batches.state"] = "completed"
    for name in (f"{column.table.name}.{column.name}", column.name):
        if name in by_name:
            return by_name[name]
    by_type = {
        str: "text",
        int: 1,
        float: 0.5,
        bool: True,
        bytes: b"bytes",
        datetime: datetime.now(UTC),
        UUID: UUID(int=1),
    }
    return by_type.get(column.type.python_type, {"key": "value"})
