"""The universe: list tasks over sixteen letters, described by one or two words.

An order word says which letters to write, a change word how to write each: `reverse upper` of `b d a` is `A D B`. So
tasks are related, as real ones are, and there are many more tasks than words. Two further tasks have labels.

During pre-training the words are at random places among `PREFIX` positions in front of the input, and dots fill the
others. Later a soft prompt of `PREFIX` positions takes their place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ipt.data.examples import Example

LETTERS = "abcdefghijklmnop"
PREFIX = 8
FILLER = "."
LENGTHS = (4, 5, 6, 7)

Letters = list[str]


def _swap_ends(letters: Letters) -> Letters:
    return [letters[-1], *letters[1:-1], letters[0]]


def _swap_neighbours(letters: Letters) -> Letters:
    paired = [letter for i in range(0, len(letters) - 1, 2) for letter in (letters[i + 1], letters[i])]
    return paired + letters[len(paired) :]


ORDERS: dict[str, Callable[[Letters], Letters]] = {
    "copy": list,
    "reverse": lambda letters: letters[::-1],
    "sort": sorted,
    "descend": lambda letters: sorted(letters, reverse=True),
    "rotate": lambda letters: letters[1:] + letters[:1],
    "unrotate": lambda letters: letters[-1:] + letters[:-1],
    "ends": _swap_ends,
    "neighbours": _swap_neighbours,
    "head": lambda letters: letters[:3],
    "tail": lambda letters: letters[-3:],
    "odd": lambda letters: letters[::2],
    "middle": lambda letters: letters[1:-1],
}


CHANGES: dict[str, Callable[[str], str]] = {
    "same": str,
    "upper": str.upper,
    "next": lambda letter: LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)],
    "mirror": lambda letter: LETTERS[-1 - LETTERS.index(letter)],
}

LABELLED: dict[str, Callable[[Letters], str]] = {
    "count": lambda letters: str(len(letters)),
    "early": lambda letters: "yes" if letters[0] < "i" else "no",
}

Group = Literal["seen", "unseen pair", "unseen word"]
GROUPS: tuple[Group, ...] = ("seen", "unseen pair", "unseen word")
NEW_PAIRS = (
    *("reverse_upper", "sort_next", "rotate_mirror", "head_upper", "ends_next"),
    *("tail_mirror", "middle_upper", "neighbours_same"),
)
"""Excluded from the fits, which see both words of each pair in other pairs."""
NEW_WORDS = ("unrotate", "count")
"""Words whose tasks are all excluded from the fits."""

VOCABULARY = (
    *("<s>", "<pad>", "</s>", "<unk>", FILLER),
    *(*LETTERS, *LETTERS.upper(), *map(str, LENGTHS), "yes", "no"),
    *(*ORDERS, *CHANGES, *LABELLED),
)


@dataclass(frozen=True)
class UniverseTask:
    """A task, described by its words."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return "_".join(self.words)

    @property
    def family(self) -> str:
        """The order word, or the only word."""
        return self.words[0]

    def answer(self, letters: Letters) -> str:
        if self.words[0] in LABELLED:
            return LABELLED[self.words[0]](letters)
        return " ".join(map(CHANGES[self.words[1]], ORDERS[self.words[0]](letters)))

    def example(self, rng: np.random.Generator) -> Example:
        """Return a random input with its answer."""
        letters = [LETTERS[i] for i in rng.integers(len(LETTERS), size=rng.choice(LENGTHS))]
        return Example(" ".join(letters), self.answer(letters))

    def with_words(self, text: str, rng: np.random.Generator) -> str:
        """Return the text behind the words of this task."""
        prefix = [FILLER] * PREFIX
        for word, place in zip(self.words, sorted(rng.permutation(PREFIX)[: len(self.words)].tolist()), strict=True):
            prefix[place] = word
        return " ".join([*prefix, text])

    def rows(self, counts: Sequence[int], seed: int) -> list[tuple[Example, ...]]:
        """Return parts with these numbers of examples, without any repeated input."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        rows: dict[str, Example] = {}
        while len(rows) < sum(counts):
            row = self.example(rng)
            rows[row.input] = row
        remaining = iter(rows.values())
        return [tuple(itertools.islice(remaining, count)) for count in counts]


def all_tasks() -> list[UniverseTask]:
    """Return every order with every change, then the tasks with labels."""
    pairs = [UniverseTask((order, change)) for order in ORDERS for change in CHANGES]
    return [*pairs, *(UniverseTask((word,)) for word in LABELLED)]


def group_of(task: UniverseTask) -> Group:
    """Return whether subspaces are fitted on the task, and otherwise what is new about it."""
    if task.words[0] in NEW_WORDS:
        return "unseen word"
    return "unseen pair" if task.name in NEW_PAIRS else "seen"
