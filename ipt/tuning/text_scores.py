"""Similarity of a generated text to its target; every measure is from 0 to 1.

Exact match compares all words in order. Token F1 is that of SQuAD (Rajpurkar et al., arXiv 1606.05250): common words in
any order, ignoring case, punctuation and English articles. ROUGE-L (Lin, 2004) is the F-measure of the longest common
subsequence of words, ignoring case and punctuation, without stemming.
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


def mean_scores(answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Return the mean of each of `TEXT_SCORES` over at least one pair of texts."""
    pairs = list(zip(answers, targets, strict=True))
    return {
        "exact_match": fmean(exactly_matches(answer, target) for answer, target in pairs),
        "token_f1": fmean(token_f1(answer, target) for answer, target in pairs),
        "rouge_l": fmean(rouge_l(answer, target) for answer, target in pairs),
    }


def exactly_matches(answer: str, target: str) -> bool:
    """Return whether two texts are equal, ignoring differences in white space."""
    return answer.split() == target.split()


def token_f1(answer: str, target: str) -> float:
    """Return the F1 score of the common words; 1 if neither text has a word."""
    answer_words, target_words = _squad_words(answer), _squad_words(target)
    if not answer_words or not target_words:
        return float(answer_words == target_words)
    return _f1((Counter(answer_words) & Counter(target_words)).total(), len(answer_words), len(target_words))


def rouge_l(answer: str, target: str) -> float:
    """Return the F1 score of the longest common subsequence of words; 0 if a text has no word."""
    answer_words, target_words = _WORD.findall(answer.lower()), _WORD.findall(target.lower())
    if not answer_words or not target_words:
        return 0.0
    return _f1(_longest_common(answer_words, target_words), len(answer_words), len(target_words))


def _f1(common: int, answer_length: int, target_length: int) -> float:
    return 2 * common / (answer_length + target_length)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by dynamic programming over one row."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def _squad_words(text: str) -> list[str]:
    return [word for word in _PUNCTUATION.sub("", text.lower()).split() if word not in _ARTICLES]
