"""The metadata of all tables."""

from sqlalchemy import MetaData

from app.db import file_models, models, webhook_models  # noqa: F401 - importing them declares their tables
from app.db.base import Base

METADATA: MetaData = Base.metadata
