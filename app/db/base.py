"""The declarative base of all tables."""

from datetime import datetime
from typing import Any, ClassVar, get_args

from sqlalchemy import MetaData, func
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase

NOW = func.now()


def one_of(column: str, values: object) -> str:
    """Return the condition that a column has one of the values of a `Literal`."""
    return f"{column} IN ({', '.join(repr(value) for value in get_args(values))})"


class Base(DeclarativeBase):
    """The declarative base. Constraints have fixed names, so that a later migration can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: TIMESTAMP(timezone=True),
        bytes: BYTEA,
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }
