"""How near a written text is to the wanted one, each measure from 0 to 1.

Exact match tells right from wrong. Token F1 is SQuAD's (Rajpurkar et al., arXiv 1606.05250): the words in common,
whatever their order, without case, punctuation and English articles. ROUGE-L (Lin, 2004) is the F-measure of the
longest common subsequence of words, without case and punctuation, and without stemming.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

TEXT_SCORES = ("exact_match", "token_f1", "rouge_l")

_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_WORD = re.compile(r"[^\W_]+")


def mean_scores(answers: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """The mean of each of `TEXT_SCORES` over pairs of texts, of which there must be one."""
    pairs = list(zip(answers, wanted, strict=True))
    return {
        "exact_match": fmean(exactly_matches(answer, target) for answer, target in pairs),
        "token_f1": fmean(token_f1(answer, target) for answer, target in pairs),
        "rouge_l": fmean(rouge_l(answer, target) for answer, target in pairs),
    }


def exactly_matches(answer: str, wanted: str) -> bool:
    """Whether two texts are the same but for white space."""
    return answer.split() == wanted.split()


def token_f1(answer: str, wanted: str) -> float:
    """Harmonic mean of the shares of the words that are in the other text as well; 1 where neither has a word."""
    mine, theirs = _squad_words(answer), _squad_words(wanted)
    if not mine or not theirs:
        return float(mine == theirs)
    return _f1((Counter(mine) & Counter(theirs)).total(), len(mine), len(theirs))


def rouge_l(answer: str, wanted: str) -> float:
    """The same with the words in common that stand in the same order; 0 where a text has no word."""
    mine, theirs = _WORD.findall(answer.lower()), _WORD.findall(wanted.lower())
    if not mine or not theirs:
        return 0.0
    return _f1(_longest_common(mine, theirs), len(mine), len(theirs))


def _f1(common: int, mine: int, theirs: int) -> float:
    return 2 * common / (mine + theirs)


def _longest_common(mine: Sequence[str], theirs: Sequence[str]) -> int:
    lengths = [0] * (len(theirs) + 1)
    for word in mine:
        before = 0
        for place, other in enumerate(theirs, start=1):
            above = lengths[place]
            lengths[place] = before + 1 if word == other else max(above, lengths[place - 1])
            before = above
    return lengths[-1]


def _squad_words(text: str) -> list[str]:
    return [word for word in _PUNCTUATION.sub("", text.lower()).split() if word not in _ARTICLES]
