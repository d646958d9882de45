"""Choose the input and the output column of a dataset by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipt.data.files.errors import DatasetFileError
from ipt.data.names import is_short_name, listed

MAX_COLUMNS = 1000
MAX_NAME_CHARS = 200
# Tried in this order, before any other combination of a usual input with a usual output.
_PAIRS = (
    ("input", "output"),
    ("text", "label"),
    ("utterance", "intent"),
    ("sentence", "label"),
    ("sentence", "class"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("source", "target"),
    ("review", "sentiment"),
    ("reviewtext", "overall"),
    ("data", "label"),  # doccano's older exports
    ("v2", "v1"),  # the SMS Spam Collection, whose labels come first
)
# Two texts of one example, in the order in which they are joined.
_TEXT_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("1string", "2string"),  # the Microsoft Research Paraphrase Corpus
    ("question", "context"),
    ("question", "passage"),
    ("question", "paragraph"),
    ("question", "sentence"),
    ("question", "article"),
    ("question", "story"),
    ("query", "passage"),
    ("query", "document"),
    ("claim", "evidence"),
    ("claim", "perspective"),
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INPUTS = _words(
    """input text utterance sentence message query question prompt review reviewtext content document tweet comment
    body headline title email post description"""
)
_OUTPUTS = _words(
    """output label intent class category sentiment topic tag target answer completion response rating stars overall
    score emotion"""
)
# Names that are usual enough if no column has one of the names above, also in other languages than English.
_MORE_INPUTS = _INPUTS | _words(
    """premise hypothesis sentence1 sentence2 question1 question2 text1 text2
    abstract article complaint dialogue example feedback instruction issue narrative news note paragraph passage
    phrase request sms snippet statement ticket transcript utt verbatim
    frage kommentar nachricht satz texte texto testo frase mensaje pregunta mensagem messaggio
    текст сообщение отзыв النص نص טקסט 텍스트 문장 文本 内容 句子 问题 テキスト 文"""
)
_MORE_OUTPUTS = _OUTPUTS | _words(
    """annotation choice classification department group queue status summary team type
    kategorie klasse thema absicht étiquette catégorie etiqueta categoría categoria clase classe intención intenção
    метка категория класс التصنيف الفئة תווית קטגוריה 라벨 레이블 카테고리 标签 类别 分类 意图 ラベル カテゴリ"""
)
_OUTPUTS_OF_PAIRS = _words(
    """duplicate isduplicate paraphrase isparaphrase quality relation relevance similarity judgment judgement
    entailment entailmentjudgment entailmentlabel"""
)
# A column of names tells more than the numbers that stand for them.
_NAMES_OF_LABELS = {"labeltext": "label", "labelname": "label", "classname": "class", "categoryname": "category"}
_BOOKKEEPING = _words(
    """id key index idx no number split fold set length len lang language url link date time timestamp created updated
    annotator confidence probability worker file row line"""
)
_SEPARATORS = re.compile(r"[\s_\-.:*#\"'\u200b\ufeff]+")
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class ColumnsError(DatasetFileError):
    """The input and output columns cannot be chosen."""


@dataclass(frozen=True)
class Columns:
    """The columns that a row's input and output are in; the texts of several input columns are joined."""

    inputs: tuple[str, ...]
    output: str

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the inputs, and that of the outputs."""
        return (*self.inputs, self.output)

    @property
    def headings(self) -> tuple[str, ...]:
        """What stands before each of several texts: the column's name, without the objects that it is nested in.

        It is cut, since it is repeated in every row.
        """
        names = tuple(name.strip()[:MAX_NAME_CHARS] for name in self.inputs)
        last = tuple(name.rpartition(".")[2] or name for name in names)
        return last if len(set(last)) == len(last) else names

    def input_of(self, record: Mapping[str, Any]) -> object:
        """Return the input of a row; of several columns every text after its column's name, None if one is missing."""
        values = [record.get(name) for name in self.inputs]
        if len(values) == 1:
            return values[0]
        parts = []
        for heading, value in zip(self.headings, values, strict=True):
            if not isinstance(value, str):
                return value
            if not value.strip():
                return None
            parts.append(f"{heading}: {value.strip()}")
        return " ".join(parts)

    def joined_note(self) -> list[str]:
        """Return a note about inputs that are joined."""
        if len(self.inputs) == 1 or not all(map(is_short_name, self.inputs)):
            return []
        pattern = " ".join(f"{heading}: …" for heading in self.headings)
        return [f"columns are joined to inputs {pattern!r}: write the inputs of predictions in the same way"]


def folded(name: str) -> str:
    """Return a column's name without case, blanks, hyphens, underscores and decorations."""
    return _SEPARATORS.sub("", name.casefold())


def words_of(name: str) -> set[str]:
    """Return the words of a column's name, also in the singular."""
    words = _WORD.findall(_CAMEL.sub(" ", name[:MAX_NAME_CHARS]).casefold())
    return {*words, *map(_singular, words)}


def is_usual_input(name: str) -> bool:
    """Return whether a column's name usually stands for the inputs."""
    return _singular(folded(name)) in _INPUTS


def is_usual_output(name: str) -> bool:
    """Return whether a column's name usually stands for the outputs."""
    return _singular(folded(name)) in _OUTPUTS


def is_bookkeeping(name: str) -> bool:
    """Return whether a column's name says that it describes the row, such as an id or a date."""
    return not words_of(name).isdisjoint(_BOOKKEEPING)


def only_input(names: Sequence[str]) -> str | None:
    """Return the only column whose name, or a word of it, usually stands for the inputs; None if there are several."""
    for matches in (is_usual_input, may_be_input):
        inputs = [name for name in names if matches(name)]
        if len(inputs) == 1:
            return inputs[0]
    return None


def choose_columns(
    names: Sequence[str], input_column: str | None, output_column: str | None, hint: str = ""
) -> Columns:
    """Return the input and output columns, of which the caller may have named either.

    Args:
        names: the columns of the file; empty names are ignored.
        input_column, output_column: the caller's names, None to find usual names. Several input columns stand between
            commas.
        hint: a likely reason, for the error.

    Raises:
        ColumnsError: a named column is missing, or the usual names leave no choice or several.
    """
    by_folded = _by_folded(names)
    named_inputs = () if input_column is None else named_columns(names, input_column, hint)
    named_output = None if output_column is None else _find(names, by_folded, output_column, hint)
    if named_output in named_inputs or len(set(named_inputs)) < len(named_inputs):
        raise _error("input_column and output_column are the same column", names, hint)
    if named_inputs and named_output is not None:
        return Columns(named_inputs, named_output)
    if len(named_inputs) > 1:
        return _with_output(names, by_folded, named_inputs, None, hint)
    named_input = named_inputs[0] if named_inputs else None
    if named_input is None and (pair := text_pair(by_folded, named_output)) is not None:
        return _with_output(names, by_folded, pair, named_output, hint)
    pairs = [*_PAIRS, *_only_combination(by_folded, named_input, named_output)]
    repeated = False
    for usual_input, usual_output in pairs:
        text = by_folded.get(usual_input) if named_input is None else named_input
        label = by_folded.get(usual_output) if named_output is None else named_output
        if text is not None and text == label:
            repeated = True
        elif text is not None and label is not None:
            return Columns((text,), label)
    if repeated:
        raise _error("input_column and output_column are the same column", names, hint)
    texts = [named_input] if named_input is not None else [name for name in names if may_be_input(name)]
    labels = [named_output] if named_output is not None else [name for name in names if may_be_output(name)]
    if len(texts) == len(labels) == 1 and texts != labels:
        return Columns((texts[0],), labels[0])
    raise _error(_no_choice(texts, labels), names, hint)


def named_columns(names: Sequence[str], columns: str, hint: str = "") -> tuple[str, ...]:
    """Return the column of this name, or the columns whose names stand between commas.

    Raises:
        ColumnsError: the file has no such column.
    """
    by_folded = _by_folded(names)
    parts = [part.strip() for part in columns.split(",") if part.strip()]
    if len(parts) < 2 or columns in names or folded(columns) in by_folded:
        return (_find(names, by_folded, columns, hint),)
    return tuple(_find(names, by_folded, part, hint) for part in parts)


def text_pair(by_folded: Mapping[str, str], output: str | None = None) -> tuple[str, str] | None:
    """Return the columns of two texts that are usually read together, None if there are none or one named input."""
    if any(text in by_folded and label in by_folded for text, label in _PAIRS[:2]):
        return None
    pairs = [
        (by_folded[first], by_folded[second])
        for first, second in _TEXT_PAIRS
        # Columns that are numbered on, up to question3, are a list, as in a survey.
        if first in by_folded and second in by_folded and f"{first[:-1]}3" not in by_folded
    ]
    return next((pair for pair in pairs if output not in pair), None)


def _with_output(
    names: Sequence[str], by_folded: Mapping[str, str], inputs: tuple[str, ...], output: str | None, hint: str
) -> Columns:
    """Return the columns of several texts and of their output.

    Raises:
        ColumnsError: no other column, or more than one, has a usual name for outputs.
    """
    if output is not None:
        return Columns(inputs, output)
    for usual in (_OUTPUTS, _OUTPUTS_OF_PAIRS):
        columns = {column for name, column in by_folded.items() if name in usual and column not in inputs}
        if len(columns) == 1:
            return Columns(inputs, columns.pop())
    labels = [name for name in names if may_be_output(name) and name not in inputs]
    if len(labels) == 1:
        return Columns(inputs, labels[0])
    shown = listed([repr(name) for name in labels if is_short_name(name)])
    fault = f"{shown} may all hold the outputs" if labels else "no name tells the outputs"
    raise _error(f"{listed([repr(name) for name in inputs])} hold the inputs, but {fault}", names, hint)


def _no_choice(texts: Sequence[str], labels: Sequence[str]) -> str:
    """Return why no two columns are chosen, from the columns that may hold the inputs and the outputs."""
    fault = "no two columns have usual names, such as input and output, or text and label"
    inputs, outputs = ([repr(name) for name in names if is_short_name(name)] for names in (texts, labels))
    if len(inputs) > 1 and outputs:
        return (
            f"{fault}: {listed(inputs)} may all hold the inputs; to join the parts of a text, name all of them, as in "
            "input_column=title,body"
        )
    if len(outputs) > 1 and inputs:
        return f"{fault}: {listed(outputs)} may all hold the outputs"
    if len(inputs) == 1 and not labels:
        return f"{fault}: {inputs[0]} may hold the inputs, but no name tells the outputs"
    if len(outputs) == 1 and not texts:
        return f"{fault}: {outputs[0]} may hold the outputs, but no name tells the inputs"
    return fault


def other_candidates(
    names: Sequence[str], columns: Columns, input_column: str | None, output_column: str | None
) -> list[str]:
    """Return notes about columns that have usual names too, if the caller has not named the column.

    Args:
        names: the columns of the file.
        columns: the columns that are read.
        input_column, output_column: the caller's names.
    """
    numbers_of = _NAMES_OF_LABELS.get(folded(columns.output))  # the numbers that stand for the names that are read
    others = [name for name in names if name not in columns.names and is_short_name(name)]
    inputs = [repr(name) for name in others if may_be_input(name)]
    outputs = [repr(name) for name in others if may_be_output(name) and folded(name) != numbers_of]
    notes = []
    if inputs and input_column is None:
        read = listed([repr(name) for name in columns.inputs])
        notes.append(f"{listed(inputs)} may hold the inputs too, which are read from {read} (see input_column)")
    if outputs and output_column is None:
        notes.append(
            f"{listed(outputs)} may hold the outputs too, which are read from {columns.output!r} (see output_column)"
        )
    return notes


def check_columns(names: Sequence[str], line: int | None) -> None:
    """Check the header of a table.

    Raises:
        DatasetFileError: it has too many columns, or two of the same name.
    """
    if len(names) > MAX_COLUMNS:
        message = f"the header has {len(names)} columns, at most {MAX_COLUMNS} are supported: remove unused columns"
        raise DatasetFileError(message, line=line)
    first_of: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = first_of.setdefault(name, number)
        if first != number and name.strip():
            fault = f"columns {first} and {number} of the header have the same name: rename or remove one of them"
            raise DatasetFileError(fault, line=line)


def _by_folded(names: Sequence[str]) -> dict[str, str]:
    """Return the columns by their folded names, in the plural and in the singular."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(folded(name), name)
    found.pop("", None)
    for key, name in list(found.items()):
        found.setdefault(_singular(key), name)
    for names_of, usual in _NAMES_OF_LABELS.items():
        if names_of in found:
            found[usual] = found[names_of]
    return found


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def may_be_input(name: str) -> bool:
    """Return whether a word of a column's name may stand for the inputs."""
    words = words_of(name)
    return not words.isdisjoint(_MORE_INPUTS) and words.isdisjoint(_MORE_OUTPUTS | _BOOKKEEPING)


def may_be_output(name: str) -> bool:
    """Return whether a word of a column's name may stand for the outputs."""
    words = words_of(name)
    return not words.isdisjoint(_MORE_OUTPUTS) and words.isdisjoint(_BOOKKEEPING)


def _find(names: Sequence[str], by_folded: dict[str, str], column: str, hint: str) -> str:
    found = column if column in names else by_folded.get(folded(column))
    if found is None:
        raise _error("the file has no column of this name", names, hint)
    return found


def _only_combination(
    by_folded: dict[str, str], named_input: str | None, named_output: str | None
) -> list[tuple[str, str]]:
    """Return the only usual input and output, or an empty list if the file has several of either."""
    inputs = [name for name, column in by_folded.items() if name in _INPUTS and column != named_output]
    outputs = [name for name, column in by_folded.items() if name in _OUTPUTS and column != named_input]
    inputs = inputs if named_input is None else [""]
    outputs = outputs if named_output is None else [""]
    return [(inputs[0], outputs[0])] if len(inputs) == len(outputs) == 1 else []


def _error(fault: str, names: Sequence[str], hint: str) -> ColumnsError:
    shown = [repr(name) for name in names if is_short_name(name)]
    columns = f"; its columns are {listed(shown)}" if shown and not hint else ""
    return ColumnsError(f"{fault}{hint}{columns}: name two columns of the file with input_column and output_column")
