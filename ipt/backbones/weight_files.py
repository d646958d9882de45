"""The weight files of a backbone: find them, check them, hash them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ipt.errors import BackboneError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the model, sorted by name.

    Raises:
        BackboneError: there are none, the index is damaged, or a file of the index is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise BackboneError(
                f"{folder.name} has its weights only as pickles (.bin), which can run code when they are read: "
                f"convert them to {WEIGHTS} or choose a revision that has it",
                param="backbone",
            )
        raise BackboneError(f"{folder.name} has no {WEIGHTS}", param="backbone")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        # Plain file names only: a path could point anywhere on the machine.
        valid = bool(names) and all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise BackboneError(f"{folder.name}: {INDEX} is damaged", param="backbone")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BackboneError(f"{folder.name} lacks {missing[0]}, which {INDEX} names", param="backbone")
    return [folder / name for name in names]


def check_headers(files: Sequence[Path]) -> None:
    """Read the header of each safetensors file.

    Raises:
        BackboneError: a file is truncated or not a safetensors file.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise BackboneError(
                f"{file} is truncated or not a safetensors file ({first_line(error)}): download it again",
                param="backbone",
            ) from None


def count_weights(files: Sequence[Path]) -> int:
    """Return the number of weights in safetensors files, from their headers."""
    count = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return count


def hash_files(files: Sequence[Path]) -> str:
    """Return the SHA-256, in hex, of the concatenated contents of the files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
