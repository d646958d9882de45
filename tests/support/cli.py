"""Assertions about the output of commands."""

import pytest

Captured = pytest.CaptureFixture[str]


def one_error_line(captured: Captured) -> str:
    """Assert that the command printed one error line and nothing else, and return the line."""
    printed = captured.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err
