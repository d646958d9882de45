"""Read the form that uploads a file."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from app.db.file_models import FilePurpose
from app.errors import BadRequestError
from app.http.form_parts import parts_of

_PURPOSES: tuple[FilePurpose, ...] = ("fine-tune", "batch")
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_TEXTS = {"purpose", _ANCHOR, _SECONDS}
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096
_MAX_NAME_CHARS = 255
_DIGITS = re.compile("[0-9]{1,8}")
_LEAST_SECONDS, _MOST_SECONDS = 60 * 60, 30 * 24 * 60 * 60

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "purpose": {"type": "string", "enum": list(_PURPOSES)},
                        _ANCHOR: {"type": "string", "enum": ["created_at"]},
                        _SECONDS: {"type": "integer", "minimum": _LEAST_SECONDS, "maximum": _MOST_SECONDS},
                    },
                    "required": ["file", "purpose"],
                }
            }
        },
    }
}
"""The OpenAPI entry of the form."""


@dataclass(frozen=True, slots=True)
class Upload:
    filename: str
    purpose: FilePurpose
    content: bytes
    lifetime: timedelta | None
    """How long the file is kept; None: until it is deleted."""


async def read_upload(request: Request) -> Upload:
    """Read the form in the request's body.

    Raises:
        BadRequestError: the body is not a valid form, or a part is missing, repeated or wrong.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise BadRequestError("send the file in a form: content-type multipart/form-data", code="invalid_form")
    limits = {"max_files": 1, "max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD_BYTES}
    try:
        async with parts_of(request, **limits) as parts:
            texts, file = _split(parts)
            return Upload(_filename(file), _purpose(texts), await file.read(), _lifetime(texts))
    except MultiPartException as error:
        raise BadRequestError(f"the form cannot be read: {error.message}", code="invalid_form") from error
    except (ClientDisconnect, ValueError) as error:  # cut off; an unknown charset
        raise BadRequestError("the form cannot be read", code="invalid_form") from error


def _split(parts: FormData) -> tuple[dict[str, str], UploadFile]:
    texts: dict[str, str] = {}
    file: UploadFile | None = None
    for name, value in parts.multi_items():
        if name == "file":
            file = value if isinstance(value, UploadFile) else None
        elif name in texts:
            raise _invalid("sent more than once", name)
        elif name in _TEXTS and isinstance(value, str):
            texts[name] = value
        else:
            raise _invalid(f"unknown part; allowed: file, {', '.join(sorted(_TEXTS))}", None)
    if file is None:
        raise _invalid("the form needs a part `file` with a file name", "file")
    return texts, file


def _filename(file: UploadFile) -> str:
    name = file.filename or ""
    if not name.isprintable() or len(name) > _MAX_NAME_CHARS:
        raise _invalid(f"the file name must have printable characters, at most {_MAX_NAME_CHARS}", "file")
    return name


def _purpose(texts: dict[str, str]) -> FilePurpose:
    for purpose in _PURPOSES:
        if texts.get("purpose") == purpose:
            return purpose
    raise _invalid(f"must be {' or '.join(map(repr, _PURPOSES))}", "purpose")


def _lifetime(texts: dict[str, str]) -> timedelta | None:
    if _ANCHOR not in texts and _SECONDS not in texts:
        return None
    if texts.get(_ANCHOR) != "created_at":
        raise _invalid("must be 'created_at'", _ANCHOR)
    digits = texts.get(_SECONDS, "")
    if not (_DIGITS.fullmatch(digits) and _LEAST_SECONDS <= int(digits) <= _MOST_SECONDS):
        raise _invalid(f"must be a whole number from {_LEAST_SECONDS} to {_MOST_SECONDS}", _SECONDS)
    return timedelta(seconds=int(digits))


def _invalid(message: str, param: str | None) -> BadRequestError:
    return BadRequestError(message, code="invalid_value", param=param)
