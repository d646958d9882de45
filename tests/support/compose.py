"""Reads the compose files as `docker compose` does: overrides merged, variables put in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<other>[^}]*))?\})")


def compose_file(variables: Mapping[str, str], *overrides: str) -> dict[str, Any]:
    """docker-compose.yml with its overrides, complete; KeyError for a variable that must be set and is not."""
    document: dict[str, Any] = {}
    for name in ("docker-compose.yml", *overrides):
        document = _merged(document, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    filled: dict[str, Any] = _filled(document, variables)
    return filled


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {key: _merged(one.get(key), value) for key, value in other.items()}
    return other


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: _value_of(found, variables), value) if isinstance(value, str) else value


def _value_of(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, other = found["name"], found["operator"] or "", found["other"] or ""
    if name is None:
        return "$"
    given = variables.get(name)
    if given or (given is not None and not operator.startswith(":")):
        return given
    if operator.endswith("?"):
        raise KeyError(other)
    return other
