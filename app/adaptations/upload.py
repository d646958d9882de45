"""Datasets uploaded as files: convert a multipart form to the equivalent JSON body."""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from app.adaptations.schemas import AdaptationInput
from app.api_keys.admitting_route import AdmittingRoute
from app.errors import BadRequestError, InvalidError
from app.http.fields import Body
from app.http.form_parts import parts_of
from app.settings import Settings
from ipt.data.files.errors import DatasetFileError
from ipt.data.files.json_records import load_json
from ipt.data.files.reader import FORMATS, format_of, read_dataset
from ipt.data.files.source import DatasetFile

_FORM = "multipart/form-data"
# Each file part, and the field of the JSON body that its rows become.
_FIELD_OF_PART = {"file": "examples", "validation_file": "validation_examples"}
_PART_OF_FIELD = {field: part for part, field in _FIELD_OF_PART.items()}
_ONE_OF_FORMATS = f"one of {', '.join(FORMATS)}"
_FORMAT_PARTS = {
    "format": f"{_ONE_OF_FORMATS}; by default the file's content decides, and its suffix or media type in doubt",
    "charset": "the charset of a text file that is not in UTF-8, such as windows-1252",
    "input_column": "the column of the inputs; by default one with a usual name, such as `input` or `text`. Nested "
    "keys have dots (`data.text`); columns between commas (`title,body`) are joined",
    "output_column": "the column of the outputs; by default one with a usual name, such as `output` or `label`",
    "label_separator": "what separates the labels in a cell of a multi-label task, such as `;`; implies that `kind`",
}
_PARSED_FIELDS = {"hyperparameters", "metadata", "extend", "version", "compare_with"}
# Above every known field, so that an unknown field is rejected by its name.
_MAX_FIELDS = 32
# Above the largest metadata in any escaping; does not apply to files.
_MAX_FIELD_BYTES = 256 * 1024
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_EXAMPLE = re.compile(rf"\b({'|'.join(_PART_OF_FIELD)})\[(\d+)\]")

Lines = dict[str, list[int]]
BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True, slots=True)
class File:
    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form by name; each name is known and occurs once."""

    texts: dict[str, str]
    files: dict[str, File]


@dataclass(frozen=True, slots=True)
class Upload(Generic[BodyT]):
    """The JSON body that is equivalent to a form, and how its files were read."""

    body: BodyT
    lines: Lines
    source: dict[str, dict[str, Any]]
    """By the name of the part."""


class FormRoute(AdmittingRoute):
    """A route that matches forms only; any other body goes to the next route of the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if match is Match.FULL and content_type.partition(b";")[0].strip().lower() != _FORM.encode():
            return Match.NONE, {}
        return match, child_scope


def documented_form(model: type[Body]) -> dict[str, Any]:
    """Return the OpenAPI entry of the form, to merge with that of the JSON body."""
    in_json = model.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    properties = {
        "file": file
        | {"description": "the examples: JSON, JSON lines, CSV, TSV, Excel, Parquet or an annotation tool's export"},
        **{
            part: file | {"description": in_json[field]["description"]}
            for field, part in _PART_OF_FIELD.items()
            if field in in_json and part != "file"
        },
        **{name: {"type": "string", "description": description} for name, description in _FORMAT_PARTS.items()},
        **{name: in_json[name] for name in in_json if name not in _PART_OF_FIELD},
    }
    properties["format"] |= {"enum": list(FORMATS)}
    schema = {"type": "object", "properties": properties, "required": ["file"], "additionalProperties": False}
    return {"requestBody": {"content": {_FORM: {"schema": schema}}}}


def form_reader(model: type[Body]) -> Callable[[Request], Awaitable[Form]]:
    """Return a dependency that reads the form in a request's body, whose parts are the fields of `model`.

    The dependency raises:
        BadRequestError: the body is not a valid form.
        InvalidError: a part is repeated or of the wrong kind.
        RequestValidationError: a part is missing or unknown.
    """
    names = {*_FORMAT_PARTS, *(_PART_OF_FIELD.get(field, field) for field in model.model_fields)}
    limits = {"max_files": len(_FIELD_OF_PART), "max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD_BYTES}

    async def read_form(request: Request) -> Form:
        form = Form({}, {})
        try:
            async with parts_of(request, **limits) as parts:
                for name, value in parts.multi_items():
                    if name not in names:
                        raise _invalid("extra_forbidden", name)
                    _check_part(form, name, value)
                    if isinstance(value, str):
                        form.texts[name] = value
                    else:
                        form.files[name] = File(value.filename or "", value.content_type or "", await value.read())
        except MultiPartException as error:
            raise BadRequestError(f"the form cannot be read: {error.message}", code="invalid_form") from error
        except (ClientDisconnect, ValueError) as error:  # cut off; an unknown charset
            raise BadRequestError("the form cannot be read", code="invalid_form") from error
        if "file" not in form.files:
            raise _invalid("missing", "file")
        return form

    return read_form


read_form = form_reader(AdaptationInput)
"""The dependency for datasets of all kinds; `read_body` rejects the fields that a route does not have."""


def read_body(form: Form, settings: Settings, model: type[BodyT]) -> Upload[BodyT]:
    """Return the equivalent JSON body, the lines of its examples in their files, and how the files were read.

    Raises:
        InvalidError, RequestValidationError: as for JSON, but with file and line.
    """
    body: dict[str, Any] = {name: text for name, text in form.texts.items() if name not in _FORMAT_PARTS}
    if "label_separator" in form.texts:
        body.setdefault("kind", "multilabel")
    for name in body.keys() & _PARSED_FIELDS:
        try:
            body[name] = load_json(body[name])
        except ValueError as error:
            raise InvalidError(f"not JSON ({error})", code="invalid_json", param=name) from error
    lines: Lines = {}
    source: dict[str, dict[str, Any]] = {}
    for part, file in form.files.items():
        content = _read(form, part, file, settings)
        lines[_FIELD_OF_PART[part]] = content.lines
        body[_FIELD_OF_PART[part]] = [{"input": row.input, "output": row.output} for row in content.examples]
        source[part] = content.source.as_json()
    try:
        return Upload(model.model_validate(body), lines, source)
    except ValidationError as error:
        # Drop the original error, which quotes the examples.
        errors = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**entry, "loc": _location(entry["loc"], lines)} for entry in errors]) from None


@contextmanager
def naming_lines(lines: Lines) -> Iterator[None]:
    """Translate errors about an example, such as `examples[3].output`, to file and line: `file:5.output`."""
    try:
        yield
    except InvalidError as error:
        param = error.param and _PART_OF_FIELD.get(error.param, in_file(error.param, lines))
        raise InvalidError(in_file(error.message, lines), code=error.code, param=param) from error


def _check_part(form: Form, name: str, value: str | UploadFile) -> None:
    if name in form.texts or name in form.files:
        raise InvalidError("sent more than once", code="invalid_value", param=name)
    if name in _FIELD_OF_PART and isinstance(value, str):
        raise InvalidError("must be a file with a name; with curl: -F file=@NAME", code="not_a_file", param=name)
    if name not in _FIELD_OF_PART and not isinstance(value, str):
        raise InvalidError("must be text, not a file", code="not_text", param=name)


def _read(form: Form, part: str, file: File, settings: Settings) -> DatasetFile:
    file_format = form.texts.get("format", format_of(file.name, file.content_type))
    if file_format is not None and file_format not in FORMATS:
        raise InvalidError(f"must be {_ONE_OF_FORMATS}", code="unknown_format", param="format")
    separator = form.texts.get("label_separator")
    if separator is not None and not separator.strip(" "):
        raise InvalidError(
            "must be the text between two labels, such as ;", code="invalid_value", param="label_separator"
        )
    declared = _CHARSET.search(file.content_type)
    try:
        return read_dataset(
            file.data,
            format=file_format,
            charset=form.texts.get("charset", declared and declared[1]),
            input_column=form.texts.get("input_column"),
            output_column=form.texts.get("output_column"),
            multilabel=form.texts.get("kind") == "multilabel",
            label_separator=separator,
            # One row above the limit is enough for the check of JSON bodies to reject the file.
            max_rows=settings.max_examples,
            max_bytes=settings.max_body_bytes,
        )
    except DatasetFileError as error:
        place = "" if error.line is None else f":{error.line}"
        field = "" if error.field is None else f".{error.field}"
        raise InvalidError(error.message, code="invalid_dataset_file", param=f"{part}{place}{field}") from error


def _invalid(kind: str, part: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", part), "msg": ""}])


def _location(location: Sequence[Any], lines: Lines) -> tuple[Any, ...]:
    """Return the location of an error in the form, in FastAPI's notation."""
    match location:
        case (str(field), int(index), str(column)) if field in lines:
            return ("form", in_file(f"{field}[{index}].{column}", lines))
        case ():
            return ("form", "name")  # the only check of the whole body: either name or task_id
        case _:
            return ("body", *location)


def in_file(text: str, lines: Lines) -> str:
    """Replace each `examples[3]` in a text with its file and line, `file:5`."""
    return _EXAMPLE.sub(lambda match: f"{_PART_OF_FIELD[match[1]]}:{lines[match[1]][int(match[2])]}", text)
