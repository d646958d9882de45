"""A check that rejected requests store nothing."""

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import Engine, func, select

from app.db.models import Adaptation, Dataset, Task
from app.db.session import transaction


@pytest.fixture
def nothing_half_written(client: httpx.Client, service_engine: Engine) -> Iterator[None]:
    """After the test, no row is left, and the service is still ready."""
    yield
    with transaction(service_engine) as session:
        for table in (Adaptation, Dataset, Task):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert client.get("/readyz").status_code == 200
