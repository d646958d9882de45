"""Near-duplicate texts: which texts are the same to an uncased model, and which examples must not be split apart."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from ipt.data.examples import Example
from ipt.data.similar_texts import Link, similar_texts, without_typos

_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>|<!--[^<>]{0,1000}-->|&(?:#\w{1,7}|[A-Za-z]{2,8});")
_ADDRESS = re.compile(r"://|@|\Awww\.")
_DIGIT = re.compile(r"\d")
_MIN_WORDS = 3
"""Words that a text must have besides what says nothing."""
_MIN_CORRECTED_WORDS = 5
"""Words that a text must have for its typos to be corrected: "play it" may be no typo of "pay it"."""


def near_duplicate_groups(examples: Sequence[Example], token_ids: Sequence[Sequence[int]] | None = None) -> list[int]:
    """Return the group of each example, numbered from 0; examples whose texts are near-duplicates share a group.

    These are near-duplicates:
    - texts that are equal without case, accents, punctuation and blanks, or the same tokens for the backbone;
    - texts of one label that differ only in numbers, ids, addresses, HTML tags, blanks and typos;
    - texts of one label that hardly differ (`ipt.data.similar_texts`), unless all texts of the label would be one
      group: then the words that differ are what the label's texts are about.

    Args:
        examples: the examples.
        token_ids: of each input, as the backbone reads it.
    """
    if not examples:
        return []
    fold = TextFolding()
    groups = _Groups(len(examples))
    groups.join_equal([fold.key(example.input) for example in examples])
    if token_ids is not None:
        groups.join_equal([tuple(ids) for ids in token_ids])
    templates = [_template(example.input, fold) for example in examples]
    corrected = without_typos(templates)
    groups.join(_links_of_templates(examples, templates, _MIN_WORDS))
    groups.join(_links_of_templates(examples, corrected, _MIN_CORRECTED_WORDS))
    for links in _links_by_label(examples, corrected, groups):
        groups.join(links)
    return groups.numbered()


def new_rows(examples: Sequence[Example], earlier: Sequence[Example]) -> list[int]:
    """Return the numbers of the examples whose texts no earlier example has.

    Texts are compared without case, accents and punctuation.
    """
    if not examples:
        return []
    fold = TextFolding()
    seen = {fold.key(example.input) for example in earlier}
    return [row for row, example in enumerate(examples) if fold.key(example.input) not in seen]


def new_token_ids(token_ids: Sequence[Sequence[int]], earlier: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers of the texts that are not the same tokens for the backbone as an earlier text."""
    seen = set(map(tuple, earlier))
    return [row for row, ids in enumerate(token_ids) if tuple(ids) not in seen]


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


class _Groups:
    """Rows that are joined to groups (union-find)."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def find(self, row: int) -> int:
        """Return the row that stands for the group of `row`."""
        root = row
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[row] != root:
            self._parents[row], row = root, self._parents[row]
        return root

    def join(self, links: Iterable[Link]) -> None:
        for first, second in links:
            roots = sorted((self.find(first), self.find(second)))
            self._parents[roots[1]] = roots[0]

    def join_equal(self, keys: Sequence[Hashable]) -> None:
        """Join the rows whose keys are equal."""
        first_of: dict[Hashable, int] = {}
        self.join((first_of.setdefault(key, row), row) for row, key in enumerate(keys))

    def count(self, rows: Iterable[int]) -> int:
        """Return how many groups the rows have."""
        return len({self.find(row) for row in rows})

    def numbered(self) -> list[int]:
        numbers: dict[int, int] = {}
        return [numbers.setdefault(self.find(row), len(numbers)) for row in range(len(self._parents))]


def _template(text: str, fold: TextFolding) -> list[str]:
    """Return the words of a text without HTML tags, addresses, and words with digits, such as ids."""
    words = [word for word in _TAG.sub(" ", text).split() if not (_DIGIT.search(word) or _ADDRESS.search(word))]
    return " ".join(words).translate(fold).split()


def _links_of_templates(examples: Sequence[Example], templates: Sequence[Sequence[str]], min_words: int) -> list[Link]:
    """Return links between the texts of a template of enough words, if they have the same label."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, words in enumerate(templates):
        if len(words) >= min_words:
            rows_of["".join(words)].append(row)
    return [
        (rows[0], row) for rows in rows_of.values() if len({examples[row].output for row in rows}) == 1 for row in rows
    ]


def _links_by_label(
    examples: Sequence[Example], templates: Sequence[Sequence[str]], groups: _Groups
) -> Iterable[list[Link]]:
    """Return links between texts that hardly differ, for each label that has several groups with these links."""
    rows = [row for row in range(len(examples)) if groups.find(row) == row]
    labels = [examples[row].output for row in rows]
    links_of: dict[str, list[Link]] = defaultdict(list)
    for first, second in similar_texts([templates[row] for row in rows], labels):
        links_of[labels[first]].append((first, second))
    rows_of: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        rows_of[label].append(number)
    for label, links in links_of.items():
        joined = _Groups(len(rows))
        joined.join(links)
        if joined.count(rows_of[label]) > 1:
            yield [(rows[first], rows[second]) for first, second in links]
