"""OpenAI's own client for the tenants of the shared service."""

from collections.abc import Callable

import httpx
import openai
import pytest

from app.openai.dialect import PREFIX
from tests.support.claims import subspace  # noqa: F401, a fixture
from tests.support.jobs import enqueue, settings  # noqa: F401, fixtures


def openai_of(client: httpx.Client) -> openai.OpenAI:
    """Return OpenAI's client with the key of a client; it retries nothing, so that a test sees every response."""
    key = client.headers["authorization"].removeprefix("Bearer ")
    return openai.OpenAI(base_url=f"{client.base_url}{PREFIX}", api_key=key, max_retries=0)


@pytest.fixture
def new_openai(new_client: Callable[..., httpx.Client]) -> Callable[..., openai.OpenAI]:
    """Create clients, each for a new tenant."""
    return lambda **key_options: openai_of(new_client(**key_options))


@pytest.fixture
def openai_client(client: httpx.Client) -> openai.OpenAI:
    """OpenAI's client for the tenant of `client`."""
    return openai_of(client)
