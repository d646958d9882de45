"""Changes to the rows of a dataset, before anything is stored."""

from typing import Any

import pytest

from app.errors import AppError
from app.examples.changes import Change
from app.examples.rows import DatasetRow
from app.examples.schemas import ChangeInput

ROWS = [
    DatasetRow("examples", "one", "a"),
    DatasetRow("examples", "two", "a"),
    DatasetRow("examples", "two", "b"),
    DatasetRow("validation_examples", "three", "b"),
]


def changed(**fields: Any) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    change = Change(ROWS, version=4)
    change.apply(ChangeInput.model_validate({"version": 4, **fields}))
    return [(row.input, row.output) for row in change.rows], change.summary


def test_every_change_is_made_and_counted() -> None:
    rows, summary = changed(
        remove=[{"id": ROWS[0].id}],
        relabel=[{"input": "two", "output": "c"}],
        rename_labels=[{"label": "b", "to": "d"}],
        merge_labels=[{"labels": ["c", "d"], "into": "e"}],
        add=[{"input": "four", "output": "f"}],
    )
    assert rows == [("two", "e"), ("two", "e"), ("three", "e"), ("four", "f")]
    assert summary == {
        "version": 4, "removed": 1, "relabelled": 2, "added": 1, "renamed": {"b": "d"}, "merged": {"e": ["c", "d"]},
    }  # fmt: skip


def test_an_id_names_one_of_two_rows_with_the_same_text() -> None:
    rows, _ = changed(relabel=[{"id": ROWS[2].id, "output": "a"}])
    assert rows == [("one", "a"), ("two", "a"), ("two", "a"), ("three", "b")]


def test_labels_are_merged_into_one_of_them_and_swapped_through_a_third() -> None:
    assert changed(merge_labels=[{"labels": ["a"], "into": "b"}])[0] == [(row.input, "b") for row in ROWS]
    swap = [{"label": "a", "to": "c"}, {"label": "b", "to": "a"}, {"label": "c", "to": "b"}]
    assert changed(rename_labels=swap)[0] == [("one", "b"), ("two", "b"), ("two", "a"), ("three", "a")]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"remove": [{"id": ROWS[0].id}, {"input": "gone"}]}, "example_not_found", "remove[1].input"),
        ({"relabel": [{"id": "exm_0", "output": "a"}]}, "example_not_found", "relabel[0].id"),
        ({"rename_labels": [{"label": "z", "to": "y"}]}, "label_not_found", "rename_labels[0].label"),
        ({"rename_labels": [{"label": "a", "to": "b"}]}, "label_exists", "rename_labels[0].to"),
        ({"rename_labels": [{"label": "a", "to": "a"}]}, "label_exists", "rename_labels[0].to"),
        ({"rename_labels": [{"label": "a", "to": " B"}]}, "label_exists", "rename_labels[0].to"),
        ({"merge_labels": [{"labels": ["a", "z"], "into": "b"}]}, "label_not_found", "merge_labels[0].labels"),
    ],
)
def test_a_wrong_change_names_its_place(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(AppError) as caught:
        changed(**fields)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_removed_row_cannot_be_relabelled() -> None:
    with pytest.raises(AppError, match="no example"):
        changed(remove=[{"id": ROWS[0].id}], relabel=[{"input": "one", "output": "b"}])


def test_an_example_that_is_named_often_is_changed_once() -> None:
    often = 100_000  # times 50,000 rows would take minutes
    change = Change([DatasetRow("examples", "same", "a")] * 50_000, version=1)
    relabel = [{"input": "same", "output": "c"}] * (often - 1) + [{"input": "same", "output": "b"}]
    change.apply(ChangeInput.model_validate({"version": 1, "relabel": relabel}))
    assert (change.summary["relabelled"], {row.output for row in change.rows}) == (50_000, {"b"})
    with pytest.raises(ValueError, match="at most 200 items"):
        changed(rename_labels=[{"label": "a", "to": "a"}] * 201)
