"""Which texts hardly differ: equal but for typos and a word, or, if they are long, for a small share of their words.

Only texts that share a key are compared, and a text has about as many keys as words. So the work grows in proportion to
the texts, even if all of them are alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

Link = tuple[int, int]
"""Two texts, by their numbers, that hardly differ."""

_MIN_COMMON_WORDS = 5
"""Words that two short texts must have in common."""
_LONG = 12
"""Words from which on more than one word may differ."""
_WORDS_PER_PART = 3
_MOST_PARTS = 64
_MOST_COMPARED = 8
"""Most texts that a long text is compared with."""
_ALIKE = 0.75
"""Share of the words of two long texts that both have."""
_MIN_LETTERS, _MAX_LETTERS = 4, 24
"""Lengths of words that may have a typo."""


def without_typos(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the words of each text, each as the most frequent word that equals it but for a letter.

    Two words are equal but for a letter if they have a word in common after a letter of each, or of one of them, is
    taken away.
    """
    counts = Counter(word for words in texts for word in words)
    by_part: dict[str, str] = {}
    # Of equally frequent words the first one counts.
    for word in sorted(counts, key=counts.__getitem__, reverse=True):
        for part in _without_a_letter(word):
            by_part.setdefault(part, word)
    corrected = {
        word: max((by_part[part] for part in _without_a_letter(word)), key=counts.__getitem__, default=word)
        for word in counts
    }
    return [[corrected[word] for word in words] for words in texts]


def _without_a_letter(word: str) -> list[str]:
    """Return the word, and the word without each letter, if it is of a length that tells it from other words."""
    if not _MIN_LETTERS <= len(word) <= _MAX_LETTERS:
        return [word] if len(word) == _MIN_LETTERS - 1 else []
    return [word, *(word[:place] + word[place + 1 :] for place in range(len(word)))]


class _WordHashes(dict[str, int]):
    """64 bits for each word, equal in every process."""

    def __missing__(self, word: str) -> int:
        digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = digest
        return digest


def similar_texts(texts: Sequence[Sequence[str]], labels: Sequence[Hashable]) -> list[Link]:
    """Return links between texts that hardly differ and have one label; links of links belong together too.

    A word that tells labels apart is no small difference: texts that are equal but for a word are linked if all texts
    that have their other words have the same label.

    Args:
        texts: the words of each text; their order does not count.
        labels: of each text.
    """
    hashes = _WordHashes()
    hashed = [[hashes[word] for word in words] for words in texts]
    return [*_equal_but_for_a_word(hashed, labels), *_long_and_alike(hashed, labels)]


def _equal_but_for_a_word(texts: Sequence[Sequence[int]], labels: Sequence[Hashable]) -> Iterator[Link]:
    """Yield links between texts of which one word is replaced, added or left out.

    The sum of the hashes stands for the words of a text. Two texts are equal but for a word if they have a sum in
    common after a word of each, or of one of them, is taken away.
    """
    sums = [_sums_without_a_word(text) for text in texts]
    label_of: dict[int, Hashable | None] = {}
    for text_sums, label in zip(sums, labels, strict=True):
        for total in text_sums:
            label_of[total] = label if label_of.setdefault(total, label) == label else None
    first_of: dict[int, int] = {}
    for number, text_sums in enumerate(sums):
        for total in text_sums:
            first = first_of.setdefault(total, number)
            if first != number and label_of[total] is not None:
                yield first, number


def _sums_without_a_word(text: Sequence[int]) -> set[int]:
    """Return the sum of all words, and the sums without each one, if enough words are left."""
    if len(text) < _MIN_COMMON_WORDS:
        return set()
    total = sum(text)
    return {total} | ({total - word for word in text} if len(text) > _MIN_COMMON_WORDS else set())


def _long_and_alike(texts: Sequence[Sequence[int]], labels: Sequence[Hashable]) -> Iterator[Link]:
    """Yield links between long texts of one label that have most of their words in common.

    The words of a text are divided by their hashes into parts. Texts that differ in a few words have some parts in
    common, and texts with a common part are compared.
    """
    words_of: dict[int, frozenset[int]] = {}
    first_of: dict[Hashable, int] = {}
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        words = frozenset(text)
        if len(words) < _LONG:
            continue
        words_of[number] = words
        firsts = [first_of.setdefault((label, part), number) for part in _parts(words)]
        for first, _ in Counter(firsts).most_common(_MOST_COMPARED):
            common = len(words & words_of[first])
            if first != number and common >= _ALIKE * (len(words) + len(words_of[first]) - common):
                yield first, number


def _parts(words: frozenset[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of a text, for two numbers of parts: the other text may have a few words more or less."""
    count = 1
    while count < _MOST_PARTS and count * 2 * _WORDS_PER_PART <= len(words):
        count *= 2
    for parts in (count, count // 2):
        sums = [0] * parts
        sizes = [0] * parts
        for word in words:
            sums[word % parts] += word
            sizes[word % parts] += 1
        yield from ((parts, part, sums[part]) for part in range(parts) if sizes[part] > 1)
