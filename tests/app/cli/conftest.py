"""A port for commands that must find no service."""

import pytest

from app.cli.service_process import free_ports


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    [port] = free_ports(1)
    return port
