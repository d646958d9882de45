"""Read the compose files as `docker compose` does: merge overrides and interpolate variables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<other>[^}]*))?\})")


def compose_file(variables: Mapping[str, str], *overrides: str) -> dict[str, Any]:
    """Return docker-compose.yml with overrides and variables applied; KeyError for an unset required variable."""
    document: dict[str, Any] = {}
    for name in ("docker-compose.yml", *overrides):
        document = _merged(document, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    interpolated: dict[str, Any] = _interpolated(document, variables)
    return interpolated


def _merged(base: Any, override: Any) -> Any:
    if isinstance(base, dict) and isinstance(override, dict):
        return base | {key: _merged(base.get(key), value) for key, value in override.items()}
    return override


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, variables) for item in value]
    return _VARIABLE.sub(lambda match: _value_of(match, variables), value) if isinstance(value, str) else value


def _value_of(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, other = match["name"], match["operator"] or "", match["other"] or ""
    if name is None:
        return "$"
    value = variables.get(name)
    if value or (value is not None and not operator.startswith(":")):
        return value
    if operator.endswith("?"):
        raise KeyError(other)
    return other
