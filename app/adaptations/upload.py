"""A dataset sent as a file: a form that says the same as the JSON body of `POST /v1/adaptations`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from app.adaptations.dataset import FORMATS, DatasetFileError, format_of, load_json, read_rows
from app.adaptations.schemas import AdaptationInput
from app.api_keys.routes import AdmittingRoute
from app.errors import BadRequestError, InvalidError
from app.http.form_parts import parts_of

_FORM = "multipart/form-data"
# The part that holds a file, and the field of the JSON body that its rows stand for.
_FILES = {"file": "examples", "validation_file": "validation_examples"}
_PART_OF = {field: part for part, field in _FILES.items()}
_READING = {
    "format": f"one of {', '.join(FORMATS)}; told from the file's name or type when left out",
    "input_column": "the column of the texts; `input`, or else `text`, when left out",
    "output_column": "the column of the labels or wanted texts; `output`, or else `label`, when left out",
}
_SAME = [name for name in AdaptationInput.model_fields if name not in _PART_OF]
_IN_JSON = ("hyperparameters", "metadata")
# Fields of unknown names are refused by name, up to this many.
_MOST_FIELDS = 32
# Larger than the largest metadata, however escaped; files are not counted.
_LARGEST_FIELD_BYTES = 256 * 1024
_EXAMPLE = re.compile(rf"\b({'|'.join(_PART_OF)})\[(\d+)\]")

Lines = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class File:
    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form, by name: known ones alone, and none of them twice."""

    texts: dict[str, str]
    files: dict[str, File]


class FormRoute(AdmittingRoute):
    """A route for forms alone: any other body goes on to the next route of the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if match is Match.FULL and content_type.partition(b";")[0].strip().lower() != _FORM.encode():
            return Match.NONE, {}
        return match, child_scope


def documented_form() -> dict[str, Any]:
    """The form's entry in OpenAPI, to go beside that of the JSON body."""
    same = AdaptationInput.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    properties = {
        "file": file | {"description": "the examples: JSONL, CSV or TSV"},
        "validation_file": file | {"description": same["validation_examples"]["description"]},
        **{name: {"type": "string", "description": description} for name, description in _READING.items()},
        **{name: same[name] for name in _SAME},
    }
    properties["format"] |= {"enum": list(FORMATS)}
    schema = {"type": "object", "properties": properties, "required": ["file"], "additionalProperties": False}
    return {"requestBody": {"content": {_FORM: {"schema": schema}}}}


async def read_form(request: Request) -> Form:
    """The form that the request's body is.

    Raises:
        BadRequestError: it is no form.
        InvalidError: a part is not what its name says.
    """
    form = Form({}, {})
    limits = {"max_files": len(_FILES), "max_fields": _MOST_FIELDS, "max_part_size": _LARGEST_FIELD_BYTES}
    try:
        async with parts_of(request, **limits) as parts:
            for name, value in parts.multi_items():
                _check_part(form, name, value)
                if isinstance(value, str):
                    form.texts[name] = value
                else:
                    form.files[name] = File(value.filename or "", value.content_type or "", await value.read())
    except MultiPartException as error:
        raise BadRequestError(f"the form cannot be read: {error.message}", code="invalid_form") from error
    except (ClientDisconnect, ValueError) as error:  # cut off; a charset that is none
        raise BadRequestError("the form cannot be read", code="invalid_form") from error
    if "file" not in form.files:
        raise _invalid("missing", "file")
    return form


def read_body(form: Form, max_examples: int) -> tuple[AdaptationInput, Lines]:
    """The JSON body that says the same, and the lines of its examples in their files.

    Raises:
        InvalidError, RequestValidationError: as for JSON, but naming file and line.
    """
    body: dict[str, Any] = {name: text for name, text in form.texts.items() if name not in _READING}
    for name in body.keys() & set(_IN_JSON):
        try:
            body[name] = load_json(body[name])
        except ValueError as error:
            raise InvalidError(f"not JSON ({error})", code="invalid_json", param=name) from error
    lines: Lines = {}
    for part, file in form.files.items():
        # One more than may be is enough for the check of JSON bodies to refuse them.
        numbered = list(islice(_rows(form, part, file), max_examples + 1))
        lines[_FILES[part]] = [line for line, _ in numbered]
        body[_FILES[part]] = [row for _, row in numbered]
    try:
        return AdaptationInput.model_validate(body), lines
    except ValidationError as error:
        # Not kept as the cause: it quotes the examples.
        errors = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**each, "loc": _location(each["loc"], lines)} for each in errors]) from None


@contextmanager
def naming_lines(lines: Lines) -> Iterator[None]:
    """Let errors that name an example, as `examples[3].output`, name file and line, as `file:5.output`."""
    try:
        yield
    except InvalidError as error:
        param = error.param and _PART_OF.get(error.param, in_file(error.param, lines))
        raise InvalidError(in_file(error.message, lines), code=error.code, param=param) from error


def _check_part(form: Form, name: str, value: str | UploadFile) -> None:
    if name not in (*_FILES, *_READING, *_SAME):
        raise _invalid("extra_forbidden", name)
    if name in form.texts or name in form.files:
        raise InvalidError("given more than once", code="invalid_value", param=name)
    if name in _FILES and isinstance(value, str):
        raise InvalidError("must be a file with a name; with curl: -F file=@NAME", code="not_a_file", param=name)
    if name not in _FILES and not isinstance(value, str):
        raise InvalidError("must be text, not a file", code="not_text", param=name)


def _rows(form: Form, part: str, file: File) -> Iterator[tuple[int, dict[str, str]]]:
    file_format = form.texts.get("format", format_of(file.name, file.content_type))
    if file_format is None:
        message = "neither the file's name nor its type says what it is: send a format with it"
        raise InvalidError(f"{message}, {_READING['format'].partition(';')[0]}", code="unknown_format", param=part)
    if file_format not in FORMATS:
        raise InvalidError(f"must be {_READING['format'].partition(';')[0]}", code="unknown_format", param="format")
    try:
        yield from read_rows(file.data, file_format, form.texts.get("input_column"), form.texts.get("output_column"))
    except DatasetFileError as error:
        place = "" if error.line is None else f":{error.line}"
        field = "" if error.field is None else f".{error.field}"
        raise InvalidError(error.message, code="invalid_dataset_file", param=f"{part}{place}{field}") from error


def _invalid(kind: str, part: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", part), "msg": ""}])


def _location(location: Sequence[Any], lines: Lines) -> tuple[Any, ...]:
    """Where an error is in the form, in the way of FastAPI; what is outside the body is named as it stands."""
    match location:
        case (str(field), int(index), str(column)) if field in lines:
            return ("form", in_file(f"{field}[{index}].{column}", lines))
        case ():
            return ("form", "name")  # the one check of the body as a whole: either name or task_id
        case _:
            return ("body", *location)


def in_file(text: str, lines: Lines) -> str:
    """A text that speaks of `examples[3]`, speaking of `file:5` instead."""
    return _EXAMPLE.sub(lambda found: f"{_PART_OF[found[1]]}:{lines[found[1]][int(found[2])]}", text)
