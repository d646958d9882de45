"""Warnings about texts that the backbone does not read as they are: cut, unknown, alike, or in a language it lacks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from ipt.backbones.interface import Backbone, TokenIds
from ipt.backbones.writable_outputs import unwritable_outputs_warning
from ipt.data.examples import Example
from ipt.data.names import listed
from ipt.data.near_duplicates import TextFolding
from ipt.data.preparation import PreparedDataset
from ipt.subspace.subspace import Subspace

Read = Callable[[Sequence[str]], list[tuple[TokenIds, bool]]]
"""Returns the token ids of each text, and whether the text was cut, as `Backbone.tokenize_flagged` does."""

_MOST_CHARS = 2_000_000
"""Characters after which the rest of the texts is not read: tokenizing them takes about a second."""
_TEXTS_AT_ONCE = 32
_MOSTLY = 0.5
"""Share of unknown tokens above which a text is named."""
_NOTABLE_UNKNOWN = 0.05
"""Share of unknown tokens of all texts above which there is a warning. English texts have almost none."""
_SAMPLE_WORDS = 1000
_MIN_WORDS = 20
_FOREIGN_TOKENS_PER_WORD = 1.55
"""English texts have 1.0 to 1.1 tokens for each word, HTML 1.5, French 1.6, Spanish 1.8, German 2.1 and Arabic 4.4. On
a multilingual backbone Spanish has up to 1.5. English about drugs or software has 2.0 to 2.5."""
_ENGLISH_SHARE = 0.06
"""Share of frequent English words from which on texts are English, however rare their other words."""
_FREQUENT = (
    "the and of to for with my you it that this have not are at from after when how what where please can be your we "
    "they there been but by if get their which would about"
)
_ENGLISH_WORDS = frozenset(_FREQUENT.split())
_WORD = re.compile(r"[^\W\d_]+")
# Thai, Lao, Myanmar, Khmer, kana and Han: scripts without blanks between words.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
_SCRIPT_NAMES = {"CJK": "Chinese characters", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana"}
_ADVICE = 'see "Languages" in the API reference for a multilingual backbone'


def dataset_warnings(backbone: Backbone, subspace: Subspace, dataset: PreparedDataset, read: Read) -> list[str]:
    """Return what `reading_warnings` says of a dataset's inputs, and whether the backbone can write its outputs."""
    validation = dataset.validation_examples or ()
    warnings = reading_warnings(backbone, subspace.prompt_length, read, dataset.examples, validation)
    if dataset.kind == "text2text":
        unwritable = unwritable_outputs_warning(backbone, [example.output for example in dataset.examples])
        warnings += [unwritable] if unwritable else []
    return warnings


def reading_warnings(
    backbone: Backbone,
    prompt_length: int,
    read: Read,
    examples: Sequence[Example],
    validation_examples: Sequence[Example] = (),
) -> list[str]:
    """Return warnings about texts that are cut, unknown to the backbone, or the same to it under different labels.

    Args:
        backbone: the frozen model that reads the texts.
        prompt_length: of the soft prompts that the texts are read with.
        read: tokenizes texts.
        examples, validation_examples: their inputs are read, up to a limit of characters.
    """
    rows = list(_within_limit(examples, validation_examples))
    texts = [example.input for _, example in rows]
    tokenized = [row for start in range(0, len(texts), _TEXTS_AT_ONCE) for row in read(texts[start:][:_TEXTS_AT_ONCE])]
    places = [place for place, _ in rows]
    ids = [row for row, _ in tokenized]
    cut = [place for place, (_, is_cut) in zip(places, tokenized, strict=True) if is_cut]
    vocabulary = Vocabulary(backbone)
    warnings = []
    if cut:
        warnings.append(
            f"{len(cut)} of {len(rows)} texts are longer than the {backbone.max_input_tokens(prompt_length)} tokens "
            f"that the backbone reads; the rest of them is cut, in tuning and in predictions: {listed(cut)}"
        )
    foreign = _unknown_warning(vocabulary, places, texts, ids) or _language_warning(vocabulary, texts, read)
    warnings += [foreign] if foreign else []
    return warnings + _alike_warnings(rows, ids)


class Vocabulary:
    """Counts the tokens of texts and the unknown ones among them; special tokens and a fixed prefix do not count."""

    def __init__(self, backbone: Backbone) -> None:
        tokenizer = backbone.tokenizer
        unknown: int | None = tokenizer.unk_token_id
        # Some tokenizers know every text, and use one id for everything special.
        is_shared = unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
        self._unknown = None if is_shared else unknown
        self._special = frozenset(tokenizer.all_special_ids) - {self._unknown}
        self._prefix = 0
        self._prefix = self.count(tokenizer("")["input_ids"])

    def count(self, row: TokenIds) -> int:
        """Return the number of tokens."""
        return max(0, len(row) - sum(map(row.count, self._special)) - self._prefix)

    def unknown_share(self, rows: Sequence[TokenIds]) -> float:
        """Return the share of unknown tokens in some texts."""
        tokens = sum(map(self.count, rows))
        return sum(row.count(self._unknown) for row in rows) / tokens if self._unknown is not None and tokens else 0.0


def _within_limit(examples: Sequence[Example], validation_examples: Sequence[Example]) -> Iterator[tuple[str, Example]]:
    characters = 0
    for field, rows in (("examples", examples), ("validation_examples", validation_examples)):
        for index, example in enumerate(rows):
            characters += len(example.input)
            if characters > _MOST_CHARS:
                return
            yield f"{field}[{index}]", example


def _unknown_warning(
    vocabulary: Vocabulary, places: Sequence[str], texts: Sequence[str], ids: Sequence[TokenIds]
) -> str | None:
    share = vocabulary.unknown_share(ids)
    unreadable = [place for place, row in zip(places, ids, strict=True) if vocabulary.unknown_share([row]) >= _MOSTLY]
    if not unreadable and share < _NOTABLE_UNKNOWN:
        return None
    named = f"; most of it in {len(unreadable)} of {len(ids)} texts: {listed(unreadable)}" if unreadable else ""
    return (
        f"the backbone does not know {share:.0%} of what the texts consist of ({_script(texts)}), so it cannot tell "
        f"them apart well{named}; {_ADVICE}"
    )


def _language_warning(vocabulary: Vocabulary, texts: Sequence[str], read: Read) -> str | None:
    """Return a warning if the backbone splits words into many tokens, which a vocabulary does with other languages."""
    of_each = max(1, _SAMPLE_WORDS // max(1, len(texts)))
    words = Counter(word for text in texts[:_SAMPLE_WORDS] for word in islice(_spaced_words(text), of_each))
    english = sum(count for word, count in words.items() if word.casefold() in _ENGLISH_WORDS)
    if words.total() < _MIN_WORDS or english >= _ENGLISH_SHARE * words.total():
        return None
    tokens = [vocabulary.count(row) for row, _ in read([f" {word}" for word in words])]
    mean = sum(length * count for length, count in zip(tokens, words.values(), strict=True)) / words.total()
    if mean < _FOREIGN_TOKENS_PER_WORD:
        return None
    return (
        f"the backbone splits each word of the texts into {mean:.1f} tokens on average ({_script(texts)}): it hardly "
        f"knows their language, so expect fewer right answers; {_ADVICE}"
    )


def _spaced_words(text: str) -> Iterator[str]:
    return (match[0] for match in _WORD.finditer(text) if not _UNSPACED.search(match[0]))


def _alike_warnings(rows: Sequence[tuple[str, Example]], ids: Sequence[TokenIds]) -> list[str]:
    """Return warnings about different texts that are the same tokens."""
    fold = TextFolding()
    of_tokens: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(ids):
        of_tokens[tuple(row)].append(number)
    pairs: list[str] = []
    lost = 0
    for numbers in of_tokens.values():
        keys = {fold.key(rows[number][1].input) for number in numbers}
        lost += len(keys) - 1
        first_place, first = rows[numbers[0]]
        pairs += [
            f"{rows[number][0]} and {first_place}"
            for number in numbers[1:]
            if rows[number][1].output != first.output and len(keys) > 1
        ]
    warnings = []
    if pairs:
        warnings.append(
            f"{len(pairs)} texts are the same to the backbone as a text of another label, because it cuts them or does "
            f"not know their words: {listed(pairs)}"
        )
    elif lost:
        warnings.append(
            f"{lost} of {len(rows)} texts are the same to the backbone as another one, because it cuts them or does "
            "not know their words; they add nothing"
        )
    return warnings


def _script(texts: Sequence[str]) -> str:
    """Return the script of most letters, such as "Arabic letters"."""
    letters = Counter(character for text in texts for character in text[:200] if character.isalpha())
    scripts: Counter[str] = Counter()
    for character, count in letters.items():
        scripts[unicodedata.name(character, "unknown").split()[0]] += count
    if not scripts:
        return "no letters"
    script = scripts.most_common(1)[0][0]
    return _SCRIPT_NAMES.get(script, f"{script.capitalize()} letters")
