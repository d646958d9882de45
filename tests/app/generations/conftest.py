"""The service that generates text, one for each test module."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.text_service import TextService, running_text_service


@pytest.fixture(scope="module")
def service(make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextService]:
    with running_text_service(tmp_path_factory.mktemp("text-service"), make_database()) as service:
        yield service
