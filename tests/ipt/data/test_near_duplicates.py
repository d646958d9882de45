"""Which texts are near-duplicates, so that no split takes them apart."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt.data.examples import Example
from ipt.data.near_duplicates import near_duplicate_groups


def are_near_duplicates(first: str, second: str, other_label: bool = False) -> bool:
    groups = near_duplicate_groups([Example(first, "a"), Example(second, "b" if other_label else "a")])
    return groups[0] == groups[1]


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("Where is my parcel?", "where is my parcel", True),
        ("Where is my parcel?", "  Where\u00a0is my -- PARCEL!! ", True),
        ("Where is my parcel?", "Where is my par\u200bcel", True),
        ("Rückgabe", unicodedata.normalize("NFD", "rückgabe"), True),
        ("Where is my parcel?", "Where is my other parcel?", False),
        ("Order 4711 never came", "order 12 never came", True),
        ("4711", "4712", False),
        ("July 4", "July 5", False),
        ("???", "!!!", False),
    ],
)
def test_near_duplicates_differ_in_case_accents_punctuation_blanks_or_numbers(
    first: str, second: str, near: bool
) -> None:
    assert are_near_duplicates(first, second) is are_near_duplicates(second, first) is near


def test_numbers_count_if_labels_depend_on_them() -> None:
    assert not are_near_duplicates("the room has 2 beds", "the room has 3 beds", other_label=True)
    assert are_near_duplicates("the room has 2 beds", "The room has 2 beds!", other_label=True)


@given(st.lists(st.text(max_size=8), max_size=6))
def test_groups_are_numbered_from_zero_and_contain_equal_texts(texts: list[str]) -> None:
    groups = near_duplicate_groups([Example(text, "a") for text in texts])
    assert sorted(set(groups)) == list(range(len(set(groups))))
    assert all(groups[i] == groups[j] for i in range(len(texts)) for j in range(i) if texts[i] == texts[j])
