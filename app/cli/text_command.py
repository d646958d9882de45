"""A command whose arguments are texts, which may start with a hyphen."""

import re
from typing import Any

import typer
from typer.core import TyperCommand

_OPTION = re.compile(r"--?[a-z][a-z-]*(?:=.*)?", re.DOTALL)
_MARK = "\0"  # no argument of a process contains it


class TextCommand(TyperCommand):
    """Reads "-5 degrees" as a text and `--json` as an option. A single word such as "-no" needs `--` before it."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # Typer's alias
        marked = [_MARK + argument if _is_text(argument) else argument for argument in args]
        rest: list[str] = super().parse_args(ctx, marked)
        ctx.params = {name: _unmarked(value) for name, value in ctx.params.items()}
        return rest


def _is_text(argument: str) -> bool:
    return argument.startswith("-") and argument != "--" and _OPTION.fullmatch(argument) is None


def _unmarked(value: Any) -> Any:
    if isinstance(value, str):
        return value.removeprefix(_MARK)
    return type(value)(map(_unmarked, value)) if isinstance(value, list | tuple) else value
