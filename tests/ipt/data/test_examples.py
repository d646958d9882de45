"""Checks of examples, and the kind of task that is inferred from them."""

from typing import Any

import pytest

import ipt
from ipt.data.examples import MAX_LABELS, names_of
from tests.support.datasets import sentiment


def test_repeated_outputs_are_labels_and_other_outputs_are_text() -> None:
    assert ipt.check_examples(sentiment()) == "classification"
    pairs = [ipt.Example(f"question {n}", f"answer number {n}") for n in range(12)]
    assert ipt.check_examples(pairs) == "text2text"
    assert ipt.check_examples(sentiment(), kind="text2text") == "text2text"


@pytest.mark.parametrize(
    ("examples", "param", "message"),
    [
        ([], "examples", "empty"),
        ([ipt.Example("a", "x"), ipt.Example("b", "x")], "examples", "same output"),
        ([ipt.Example("a", "x"), ipt.Example("b", "x"), ipt.Example("c", "y")], "examples[2].output", "single example"),
        ([ipt.Example(" ", "x"), ipt.Example("b", "y")], "examples[0].input", "empty"),
        ([ipt.Example("\u200b\ufeff", "x"), ipt.Example("b", "y")], "examples[0].input", "empty"),
        ([ipt.Example("a", "x"), ipt.Example("b", "")], "examples[1].output", "empty"),
        ([ipt.Example("a\x00", "x"), ipt.Example("b", "y")], "examples[0].input", "NUL"),
        ([ipt.Example("a", "x"), ipt.Example("\ud800", "y")], "examples[1].input", "surrogate"),
        ([ipt.Example(1, "x"), ipt.Example("b", "y")], "examples[0].input", "must be a string, got int"),  # type: ignore[arg-type]
        ([("a", "x"), ("b", "y")], "examples[0]", r"must be an ipt.Example\(input, output\), got tuple"),
        ([ipt.Example("a", f"l{n // 2}") for n in range(2 * MAX_LABELS + 2)], "examples[400].output", "201 labels"),
    ],
)
def test_an_invalid_dataset_is_rejected_naming_the_field(examples: list[ipt.Example], param: str, message: str) -> None:
    with pytest.raises(ipt.DatasetError, match=message) as caught:
        ipt.check_examples(examples)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("labels", "descriptive"),
    [
        (("billing", "no"), True),
        (("是的", "不是"), True),
        (("spam", "0"), False),
        (("A", "B"), False),
        (("👍", "👎"), False),
    ],
)
def test_labels_describe_classes_only_if_each_has_two_letters(labels: tuple[str, ...], descriptive: bool) -> None:
    assert names_of(labels) == (labels if descriptive else ())


def test_validation_examples_must_not_have_a_new_label() -> None:
    with pytest.raises(ipt.DatasetError) as caught:
        ipt.check_examples(sentiment(), [ipt.Example("meh", "positive"), ipt.Example("meh", "neutral")])
    assert caught.value.param == "validation_examples[1].output"


@pytest.mark.parametrize(
    "invalid",
    [
        {"steps": -1},
        {"batch_size": 3},
        {"restarts": 0},
        {"seed": -1},
        {"learning_rate": float("nan")},
        {"learning_rate": "x"},
        {"learning_rate": None},
        {"learning_rate": True},
    ],
)
def test_hyperparameters_out_of_range_are_rejected_by_name(invalid: dict[str, Any]) -> None:
    with pytest.raises(ipt.IptError) as caught:
        ipt.Hyperparameters(**invalid)
    assert caught.value.param == next(iter(invalid))
