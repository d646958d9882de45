"""Decode the bytes of a dataset file: byte order marks, a declared charset, UTF-8, or an error that names a guess."""

from __future__ import annotations

import codecs
import re

from ipt.data.files.errors import DatasetFileError
from ipt.data.names import listed_lines

# UTF-32-LE's mark starts with UTF-16-LE's, so it must be tried first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python also has codecs that are no charsets, some of which take quadratic time.
_CHARSETS = [
    "ascii",
    "big5",
    "big5hkscs",
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp1258",
    "cp437",
    "cp850",
    "cp852",
    "cp866",
    "cp874",
    "cp932",
    "cp949",
    "cp950",
    "euc_jp",
    "euc_kr",
    "gb18030",
    "gb2312",
    "gbk",
    "iso2022_jp",
    "iso8859-1",
    "iso8859-2",
    "iso8859-3",
    "iso8859-4",
    "iso8859-5",
    "iso8859-6",
    "iso8859-7",
    "iso8859-8",
    "iso8859-9",
    "iso8859-10",
    "iso8859-13",
    "iso8859-14",
    "iso8859-15",
    "iso8859-16",
    "johab",
    "koi8-r",
    "koi8-u",
    "mac-cyrillic",
    "mac-greek",
    "mac-roman",
    "shift_jis",
    "tis-620",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-16-le",
    "utf-32",
    "utf-32-be",
    "utf-32-le",
]
_GUESSED = [
    "cp1252",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1256",
    "shift_jis",
    "gb18030",
    "big5",
    "euc_kr",
    "euc_jp",
    "koi8_r",
    "mac_roman",
]
_SAMPLE_BYTES = 8192
_UTF8_CHARACTER = re.compile("[\u0080-\ud7ff\ue000-\U0010ffff]")
# Python decodes a byte that is not UTF-8 to one of these surrogates.
_FAULT = re.compile("[\udc80-\udcff]")


def decode(data: bytes, charset: str | None = None) -> tuple[str, str]:
    """Return the text and the name of its encoding. A byte order mark comes before the declared charset.

    Raises:
        DatasetFileError: the charset is unknown, or the bytes are not text in this encoding.
    """
    declared = None if charset is None else _codec_of(charset)
    mark, encoding = byte_order_mark(data)
    encoding = encoding or declared or _utf16_without_mark(data) or "utf-8"
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_text(data, encoding, len(mark), error.start) from None
    nul = text.find("\x00")
    if nul >= 0:
        message = "a NUL character is not allowed in text: remove it, or save the file as UTF-8"
        raise DatasetFileError(message, line=_line_at(text, nul))
    return text.lstrip("\ufeff"), charset_name(encoding)


def byte_order_mark(data: bytes) -> tuple[bytes, str | None]:
    """Return the byte order mark with which data start, and its encoding; an empty mark and None without one."""
    return next((entry for entry in _BYTE_ORDER_MARKS if data.startswith(entry[0])), (b"", None))


def likely_charset(data: bytes, offset: int) -> str | None:
    """Return the name of the charset that the bytes around an offset are probably in, None if there is no telling."""
    guess = _guess(data, offset)
    return None if guess is None else charset_name(guess)


def doubt_about(data: bytes, encoding: str) -> str | None:
    """Return a note if data that were read in a declared charset are UTF-8 too, with other characters than ASCII."""
    if encoding == "ascii" or encoding.startswith("utf") or data.isascii():
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return f"the file is valid UTF-8, but was read as {encoding}, the declared charset"


def charset_name(codec: str) -> str:
    """Return the usual name of a codec's charset, such as windows-1252."""
    name = codec.replace("_", "-")
    return f"windows-{name[2:]}" if name.startswith("cp125") else name


def _codec_of(charset: str) -> str:
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError, UnicodeError):
        name = ""
    if name not in _CHARSETS:
        raise DatasetFileError("unknown charset: send the name of a text encoding, such as utf-8 or windows-1252")
    return name


def _utf16_without_mark(data: bytes) -> str | None:
    """Return the encoding of UTF-16 text whose characters are mostly Latin, so that every other byte is zero."""
    sample = data[:_SAMPLE_BYTES]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(data) % 2 or min(even, odd) or max(even, odd) * 4 < len(sample):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _not_text(data: bytes, encoding: str, skipped: int, start: int) -> DatasetFileError:
    offset = skipped + start
    line = _line_at(data[skipped:offset].decode(encoding), None)
    fault = f"not {encoding.upper()} text: byte 0x{data[offset]:02x} at offset {offset}"
    if encoding == "utf-8" and (places := _few_faults(data[skipped:])):
        count = "1 place" if len(places) == 1 else f"{len(places)} places"
        advice = f"the rest is valid UTF-8: correct {count} on {listed_lines(list(dict.fromkeys(places)))}"
        return DatasetFileError(f"{fault}; {advice}", line=line)
    name = likely_charset(data, offset) if encoding == "utf-8" and not skipped else None
    if name is None:
        return DatasetFileError(f"{fault}; save the file as UTF-8, or send its charset", line=line)
    advice = f"it looks like {name.title()}: send charset={name}, or save the file as UTF-8"
    return DatasetFileError(f"{fault}; {advice}", line=line)


def _few_faults(data: bytes) -> list[int]:
    """Return the lines of the bytes that are not UTF-8; empty if no more characters than these are UTF-8."""
    text = data.decode(errors="surrogateescape")
    valid = len(_UTF8_CHARACTER.findall(text))
    faults = [match.start() for match in _FAULT.finditer(text)]
    if len(faults) > valid:
        return []
    lines, before, number = [], 0, 1
    for place in faults:
        number += _line_at(text[before:place], None) - 1
        before = place
        lines.append(number)
    return lines


def _guess(data: bytes, offset: int) -> str | None:
    from charset_normalizer import from_bytes

    start = max(0, offset - _SAMPLE_BYTES // 2)
    matches = list(from_bytes(data[start : start + _SAMPLE_BYTES], cp_isolation=_GUESSED))
    # Short texts fit several encodings equally well: then the most common one counts.
    fitting = {
        codec
        for match in matches
        if (match.chaos, match.coherence) == (matches[0].chaos, matches[0].coherence)
        for codec in match.could_be_from_charset
    }
    return next((codec for codec in _GUESSED if codec in fitting), None)


def _line_at(text: str, end: int | None) -> int:
    """Return the number of the line on which the character at `end` is."""
    before = text[:end]
    return before.count("\n") + before.count("\r") - before.count("\r\n") + 1
