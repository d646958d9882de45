"""Near-duplicate texts: which texts are the same to an uncased model, and which examples must not be split apart."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from ipt.data.examples import Example

_DIGITS = re.compile(r"\d+")
_MIN_WORDS_BESIDE_NUMBERS = 3


def near_duplicate_groups(examples: Sequence[Example]) -> list[int]:
    """Return the group of each example, numbered from 0; examples whose texts are near-duplicates share a group.

    Texts are compared without case, accents, punctuation and blanks. Texts of one label that differ only in numbers are
    near-duplicates too, if they have enough words besides.
    """
    fold = TextFolding()
    keys = [fold.key(example.input) for example in examples]
    templates = list(map(_template, keys))
    labels_of_template: dict[str, set[str]] = defaultdict(set)
    for template, example in zip(templates, examples, strict=True):
        labels_of_template[template].add(example.output)
    numbers: dict[str, int] = {}
    return [
        numbers.setdefault(template if len(labels_of_template[template]) == 1 else key, len(numbers))
        for template, key in zip(templates, keys, strict=True)
    ]


def new_rows(examples: Sequence[Example], earlier: Sequence[Example]) -> list[int]:
    """Return the numbers of the examples whose texts no earlier example has.

    Texts are compared without case, accents and punctuation.
    """
    if not examples:
        return []
    fold = TextFolding()
    seen = {fold.key(example.input) for example in earlier}
    return [row for row, example in enumerate(examples) if fold.key(example.input) not in seen]


class TextFolding(dict[int, str]):
    """Maps characters to how an uncased model reads them: in lower case, without accents, punctuation as a blank.

    Characters are decomposed one by one: normalizing a whole text can take time quadratic in its length.
    """

    def __missing__(self, code: int) -> str:
        base = "".join(
            character
            for character in unicodedata.normalize("NFKD", chr(code)).casefold()
            if not "\u0300" <= character <= "\u036f" and unicodedata.category(character) != "Cf"
        )
        kept = "".join(" " if unicodedata.category(character)[0] in "PZC" else character for character in base)
        self[code] = kept
        return kept

    def key(self, text: str) -> str:
        """Return the words of the text as one string, or the text itself if it has no words."""
        return " ".join(text.translate(self).split()) or text


def _template(key: str) -> str:
    """Return the key with every number as 0, or unchanged if it has few other words."""
    template = _DIGITS.sub("0", key)
    words = sum(not word.isdecimal() for word in template.split())
    return template if words >= _MIN_WORDS_BESIDE_NUMBERS else key
