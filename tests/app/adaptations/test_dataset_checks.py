"""The work that checking a dataset may cost: labels are normalized only if they are few, short and distinct."""

import unicodedata
from contextlib import suppress
from typing import Any

import pytest

from app.adaptations.dataset_checks import prepare_dataset
from app.adaptations.schemas import AdaptationInput, ExampleInput
from app.errors import InvalidError
from app.settings import Settings
from ipt import Family
from ipt.data.examples import MAX_LABEL_CHARS, MAX_LABELS

# Normalization sorts a run of combining marks, in time quadratic in its length.
MARKS = "\u0301\u0327" * 5_000


@pytest.fixture
def normalized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were normalized."""
    texts: list[str] = []
    normalize = unicodedata.normalize

    def record(form: Any, text: str) -> str:
        texts.append(text)
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", record)
    return texts


def _body(labels: list[str], **fields: Any) -> AdaptationInput:
    examples = [
        ExampleInput.model_construct(input=f"text {number}", output=label) for number, label in enumerate(labels)
    ]
    return AdaptationInput.model_construct(name="tickets", examples=examples, **fields)


@pytest.mark.parametrize("kind", ["classification", "text2text", None])
@pytest.mark.parametrize("place", ["examples", "validation_examples"])
@pytest.mark.parametrize("distinct", [2, 760])
def test_no_label_above_the_limit_is_normalized(
    normalized: list[str], kind: str | None, place: str, distinct: int
) -> None:
    long = [f"{number}{MARKS}"[:10_000] for number in range(distinct)] * 2
    short = ["a", "b"] * 2
    body = _body(long if place == "examples" else short, kind=kind, validation_examples=_body(long).examples)
    with suppress(InvalidError):
        prepare_dataset(Settings(), body, None)
    assert all(len(text) <= MAX_LABEL_CHARS for text in normalized)
    assert len(normalized) <= MAX_LABELS


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "examples[3].output"),
        ({"validation_examples": _body(["a", "x" * (MAX_LABEL_CHARS + 1)]).examples}, "validation_examples[1].output"),
    ],
)
def test_a_label_that_is_too_long_is_named_with_the_limit(fields: dict[str, Any], param: str) -> None:
    last = "b" if fields else "x" * (MAX_LABEL_CHARS + 1)
    with pytest.raises(InvalidError) as caught:
        prepare_dataset(Settings(), _body(["a", "b", "a", last], kind="classification", **fields), None)
    assert (caught.value.code, caught.value.param) == ("invalid_dataset", param)
    assert "has 201 characters, at most 200" in caught.value.message


@pytest.mark.parametrize(("family", "kept"), [("encoder", "123"), (None, "123"), ("causal", "789")])
def test_a_long_text_is_cut_where_the_backbone_does_not_read_it(family: Family | None, kept: str) -> None:
    body = _body(["a", "b"] * 2)
    body.examples[3] = ExampleInput.model_construct(input="123456789", output="b")
    dataset = prepare_dataset(Settings(max_text_chars=3), body, family)
    assert dataset.examples[3].input == kept
    assert dataset.warnings[-1].startswith("4 texts are cut to 3 characters: examples[0], ")


def test_too_many_labels_are_texts_on_a_backbone_that_writes() -> None:
    body = _body([f"label {number}" for number in range(6)] * 2, kind=None)
    dataset = prepare_dataset(Settings(max_labels=5), body, "causal")
    assert dataset.kind == "text2text"
    assert dataset.warnings[0] == "at most 5 labels, got 6: the outputs are tuned as texts"
    for kind, family in ((None, "encoder"), ("classification", "causal")):
        with pytest.raises(InvalidError, match="at most 5 labels"):
            prepare_dataset(Settings(max_labels=5), body.model_copy(update={"kind": kind}), family)


def test_each_distinct_label_is_normalized_once(normalized: list[str]) -> None:
    labels = [f"label {number}" for number in range(MAX_LABELS)]
    assert prepare_dataset(Settings(), _body(labels * 50), None).kind == "classification"
    # Texts are only normalized by character.
    assert sorted(text for text in normalized if len(text) > 1) == sorted(labels)
