"""Preparing a dataset: labels in several spellings are unified, and probable mistakes cause warnings."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ipt
from ipt.data.examples import MAX_LABELS, Example, TaskKind
from ipt.data.labels import labels_alike
from ipt.data.preparation import doubt_about_outputs, prepare
from ipt.errors import DatasetError


def examples_of(*labels: str, text: str = "text {}") -> list[Example]:
    return [Example(text.format(number), label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("refund", "Refund ", True),
        ("late delivery", "late_delivery", True),
        ("late delivery", "late\u00a0delivery", True),
        ("late  delivery", "Late-Delivery", True),
        ("refund", "re\u200bfund\ufeff", True),
        ("Rückgabe", unicodedata.normalize("NFD", "rückgabe"), True),
        ("TRUE", "True", True),
        ("1", "1.0", True),
        ("1", "-1", False),
        ("1", "+1", False),
        ("1.0", "1.05", False),
        ("C", "C++", False),
        ("refund", "refunds", False),
        ("👍", "👎", False),
    ],
)
def test_one_rule_says_which_labels_are_alike(first: str, second: str, alike: bool) -> None:
    assert labels_alike(first, second) is labels_alike(second, first) is alike
    dataset = prepare(examples_of(first, first, first, second, "other", "other", second))
    assert len({example.output for example in dataset.examples}) == (2 if alike else 3)
    assert any("are read as one" in warning for warning in dataset.warnings) is alike


@given(st.text(max_size=20))
def test_a_label_is_like_its_other_spellings(label: str) -> None:
    for other in (label.upper().lower(), f" {label}\t", label + "\u200b"):
        assert labels_alike(other, other)
    assert labels_alike(label, f" {label}\u00a0")


def test_the_most_frequent_spelling_is_kept_and_both_are_named() -> None:
    validation = [Example("y", "REFUND")]
    nfd = unicodedata.normalize("NFD", "é")
    dataset = prepare(examples_of("Refund", "refund", "refund", "é", "é", nfd), validation)
    assert [example.output for example in dataset.examples] == ["refund"] * 3 + ["é"] * 3
    assert dataset.validation_examples == [Example("y", "refund")]
    [warning] = dataset.warnings
    assert "'Refund' (examples[0]), 'REFUND' (validation_examples[0]) as 'refund'" in warning
    assert r"'e\u0301' (examples[5]) as '\xe9'" in warning


def test_outputs_of_a_text_to_text_task_are_kept_as_they_are() -> None:
    rows = examples_of("Yes", "yes", "YES ", "yes")
    assert prepare(rows, kind="text2text").examples == rows


def test_texts_are_compared_as_an_uncased_model_reads_them() -> None:
    rows = [Example("I forgot my password.", "a"), Example("other", "b"), Example("i FORGOT my passwörd!!", "b")]
    rows += [Example("???", "a"), Example("!!!", "b"), Example("Other", "b")]
    warnings = prepare(rows, [Example("OTHER", "b")]).warnings
    assert [warning.partition(":")[0] for warning in warnings] == [
        "the same text has different labels in examples[2] and examples[0]",
        warnings[1],
        warnings[2],
    ]
    assert warnings[1].startswith("1 of 7 examples repeat the text of an earlier one")
    assert warnings[2].startswith("1 of 1 validation examples are also among the training examples")


@pytest.mark.parametrize("kind", ["classification", "text2text"])
def test_validation_examples_that_are_training_examples_cause_a_warning(kind: TaskKind) -> None:
    rows = examples_of("a", "a", "b", "b")
    validation = [Example("TEXT 1!", "a"), Example("new", "a")]
    dataset = prepare(rows, validation, kind)
    assert dataset.validation_examples == validation
    assert "1 of 2 validation examples are also among the training examples" in dataset.warnings[-1]
    assert "the score is measured on held-back training examples instead" in prepare(rows, rows, kind).warnings[-1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["refund#urgent", "refund", "late"], "'refund#urgent': several labels joined by '#'?"),
        (["refund | urgent", "refund", "late"], "several labels joined by '|'?"),
        (["0", "1.5", "2"], "all 3 labels are numbers"),
        (["money, refunds", "parcels", "account"], None),
        (["0", "1"], None),
    ],
)
def test_labels_that_probably_mean_something_else_cause_a_warning(labels: list[str], words: str | None) -> None:
    warnings = prepare(examples_of(*labels * 2)).warnings
    assert [words in warning for warning in warnings] == ([True] if words else [])


def test_all_labels_with_a_single_example_are_named_at_once() -> None:
    labels = [f"single {number}" for number in range(30)]
    with pytest.raises(DatasetError) as caught:
        prepare(examples_of("a", "a", *labels), kind="classification")
    assert caught.value.param == "examples[2].output"
    assert caught.value.message.startswith("30 labels have a single example: 'single 0' (examples[2]), ")
    assert "'single 19' (examples[21]) and 10 more" in caught.value.message
    with pytest.raises(DatasetError) as caught:
        prepare(examples_of("a", "a", "b", "b"), examples_of("c", "a", "d"))
    assert "'c' (validation_examples[0]), 'd' (validation_examples[2])" in caught.value.message


def test_one_pair_is_not_told_that_a_classifier_needs_labels() -> None:
    with pytest.raises(DatasetError, match=r"a single example: .* 2 pairs of texts"):
        prepare([Example("summarize", "a text")])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Example(f"text {n}", f"0,{n}") for n in range(20)], "a different number"),
        ([Example(f"text {n}", f"2024-01-{n + 10}T10:00:00Z") for n in range(20)], "a date or a time"),
        ([Example("ab"[n % 2], f"a long text {n}") for n in range(20)], "are the columns swapped?"),
        ([Example(f"text {n}", f"a long text {n}") for n in range(20)], None),
    ],
)
def test_outputs_that_are_no_labels_are_explained(rows: list[Example], words: str | None) -> None:
    doubt = doubt_about_outputs(rows)
    assert doubt is None if words is None else words in (doubt or "")


def test_too_many_labels_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def normalize(form: str, text: str) -> str:
        raise AssertionError("normalizing many labels takes long")

    many = examples_of(*[f"label {n}" for n in range(2 * MAX_LABELS + 1)] * 2)
    with monkeypatch.context() as patch:
        patch.setattr(unicodedata, "normalize", normalize)
        with pytest.raises(DatasetError, match="at most 200"):
            prepare(many, kind="classification")


def label_sets(*sets: list[str]) -> list[Example]:
    return [Example.with_labels(f"text {row}", labels) for row, labels in enumerate(sets)]


def test_label_sets_are_unified_and_texts_without_a_label_are_counted() -> None:
    rows = label_sets(["Bug", "login"], ["bug"], ["bug", "bug"], [], ["login"])
    dataset = prepare(rows, kind="multilabel")
    assert [example.labels for example in dataset.examples] == [("bug", "login"), ("bug",), ("bug",), (), ("login",)]
    assert any("'Bug' (examples[0]) as 'bug'" in warning for warning in dataset.warnings)
    assert any(
        warning.startswith("1 example has no label") and "examples[3]" in warning for warning in dataset.warnings
    )


@pytest.mark.parametrize(
    ("sets", "message", "param"),
    [
        ([["a", "b"], ["a"], ["b"], ["c"], []], "'c' has a single example", "examples[3].output"),
        ([["a", "b"], ["a"], ["a", "b"]], "'a' belongs to 3 of 3 examples", "examples[0].output"),
        ([[], []], "no example has a label", "examples"),
        ([["a", " "], ["a"], [], []], "is empty", "examples[0].output"),
        ([["a" * 201], ["a"], [], []], "has 201 characters", "examples[0].output"),
    ],
)
def test_label_sets_that_cannot_be_learned_are_refused(sets: list[list[str]], message: str, param: str) -> None:
    with pytest.raises(DatasetError, match=message) as refused:
        prepare(label_sets(*sets), kind="multilabel")
    assert refused.value.param == param


def test_outputs_that_are_no_lists_are_refused() -> None:
    with pytest.raises(DatasetError, match="must be a list of labels") as refused:
        prepare([*label_sets(["a"], ["a"]), Example("text", "a")], kind="multilabel")
    assert refused.value.param == "examples[2].output"


def test_validation_examples_with_other_labels_are_refused() -> None:
    rows = label_sets(["a"], ["a"], [], ["b"], ["b"])
    with pytest.raises(DatasetError, match="no training example has: 'c'") as refused:
        prepare(rows, [Example.with_labels("new", ["a", "c"])], "multilabel")
    assert refused.value.param == "validation_examples[0].output"


def test_the_check_counts_labels_as_adapt_does_and_the_engine_refuses_several_spellings(
    encoder: ipt.Backbone, subspace: ipt.Subspace
) -> None:
    examples = [ipt.Example(f"text {number}", label) for number, label in enumerate(("Bill", "bill", "bug", "bug") * 2)]
    assert ipt.check_examples(examples) == "classification"
    prepared = ipt.prepare(examples)
    assert [example.output for example in prepared.examples] == ["Bill", "Bill", "bug", "bug"] * 2
    engine = ipt.TuningEngine(encoder, subspace)
    with pytest.raises(ipt.DatasetError, match=r"'bill' \(examples\[1\]\) as 'Bill'.*ipt.prepare"):
        engine.add(ipt.TuningJob("job", examples, "classification"))
    engine.add(ipt.TuningJob("job", prepared.examples, "classification"))


def test_empty_texts_are_named_together() -> None:
    examples = [ipt.Example(f"text {number}", " " if number else "a") for number in range(26)]
    with pytest.raises(ipt.DatasetError, match=r"examples\[20\].output and 5 more are empty") as caught:
        ipt.check_examples(examples)
    assert caught.value.param == "examples[1].output"
