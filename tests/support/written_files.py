"""Dataset files as cases of a test, and the same 24 examples written as tables, JSON lines and other formats."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TEXTS = {
    "refund": [
        "my blender arrived broken, give me my money",
        "send the 15 pounds to my bank",
        "wrong color, who pays me the difference",
        "the café took my deposit and closed",
        "cancel the booking and pay me out",
        "you charged me for two lamps",
        "no voucher please, only cash",
        "when is the amount on my account",
    ],
    "shipping": [
        "which day will the sofa come",
        "the driver left it at number 9",
        "nothing arrived since Easter",
        "can you send it to my office",
        "the box is on the way for three weeks",
        "is it still in the warehouse",
        "customs keeps my parcel",
        "how much is express delivery",
    ],
    "account": [
        "the code for my login never comes",
        "change my surname, please",
        "delete everything you know of me",
        "I cannot sign in on my tablet",
        "my profile shows another person",
        "two users with one address?",
        "turn the newsletter off",
        "how do I close my profile",
    ],
}
PAIRS = [(TEXTS[label][number], label) for number in range(8) for label in TEXTS]
LABELS = list(TEXTS)
THREE = dict.fromkeys(LABELS, 8)
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Case:
    """A file, and what a service says of it: labels and warnings, or an error."""

    name: str
    data: bytes
    labels: dict[str, int] = field(default_factory=lambda: dict(THREE))
    format: str | None = None
    warnings: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    """Words of the error; the file is read if it is empty."""
    fields: dict[str, str] = field(default_factory=dict)
    """Of the form, and as options of the command line."""
    skipped: int = 0
    kind: str = "classification"


def relabeled(labels: dict[str, str], pairs: Pairs = PAIRS) -> list[tuple[str, str]]:
    return [(text, labels.get(label, label)) for text, label in pairs]


def table(
    rows: Iterable[Sequence[object]],
    header: Sequence[str] = ("text", "label"),
    delimiter: str = ",",
    end: str = "\n",
    quoting: Any = csv.QUOTE_MINIMAL,
) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([header, *rows])
    return written.getvalue()


def raw_table(pairs: Pairs, delimiter: str) -> str:
    return "".join(f"{text}{delimiter}{label}\n" for text, label in [("text", "label"), *pairs])


def records(pairs: Pairs = PAIRS, text: str = "text", label: str = "label", **more: object) -> list[dict[str, object]]:
    return [{text: first, label: second} | more for first, second in pairs]


def lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def changed(places: dict[int, tuple[str, str]], pairs: Pairs = PAIRS) -> list[tuple[str, str]]:
    return [places.get(number, pair) for number, pair in enumerate(pairs)]


def every_fourth(change: Callable[[str], str], pairs: Pairs = PAIRS) -> list[tuple[str, str]]:
    return [(text, change(label) if number % 4 == 0 else label) for number, (text, label) in enumerate(pairs)]


def label_studio(text: str, label: str) -> dict[str, object]:
    return {"data": {"text": text}, "annotations": [{"result": [{"value": {"choices": [label]}, "type": "choices"}]}]}


def chat(text: str, label: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]}


def zipped(data: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("data.csv", data)
    return written.getvalue()


def tar(mode: Literal["w", "w:gz"] = "w") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("data.csv"))
    return written.getvalue()


def long_texts(before: str, after: str = "") -> list[tuple[str, str]]:
    return [(f"{before}{text}{after}", label) for text, label in PAIRS]
