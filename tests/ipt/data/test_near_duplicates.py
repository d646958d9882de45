"""Which texts are near-duplicates, so that no split takes them apart."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipt.data.examples import Example
from ipt.data.near_duplicates import near_duplicate_groups, new_token_ids

OTHER = Example("nothing like the two", "a")
"""Without a text of another kind, all texts of the label would be one group."""


def are_near_duplicates(first: str, second: str, other_label: bool = False) -> bool:
    groups = near_duplicate_groups([Example(first, "a"), Example(second, "b" if other_label else "a"), OTHER])
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
        ("Where is my parcel", "Where is my parcel 9f1c03e2ab", True),
        ("Where is my parcel", "<p class='x'>Where is&nbsp;my parcel</p><br/>", True),
        ("Where is my parcel", "Where is my parcel https://example.com/a-b", True),
        ("I cannot find my parcel", "I can not find myparcel", True),
        ("I cannot find my other parcel", "I cannot find my other pracel", True),
        ("my card was charged twice today", "my card was charged thrice today", True),
        ("my card was charged twice", "please, my card was charged twice", True),
        ("my card was charged today", "my card was stolen today", False),
        ("cancel it", "cancel this", False),
    ],
)
def test_near_duplicates_differ_in_spelling_numbers_ids_tags_or_a_word(first: str, second: str, near: bool) -> None:
    assert are_near_duplicates(first, second) is are_near_duplicates(second, first) is near


def test_numbers_count_if_labels_depend_on_them() -> None:
    assert not are_near_duplicates("the room has 2 beds", "the room has 3 beds", other_label=True)
    assert are_near_duplicates("the room has 2 beds", "The room has 2 beds!", other_label=True)


def test_a_word_that_tells_labels_apart_counts() -> None:
    rows = [("please cancel my new order of shoes", "cancel"), ("please track my new order of shoes", "track")]
    rows += [("please cancel my new order of hats", "cancel"), ("please track my new order of hats", "track")]
    rows += [("no shoes, money back", "cancel"), ("when will it come", "track")]
    assert near_duplicate_groups([Example(*row) for row in rows]) == [0, 1, 0, 1, 2, 3]


def test_a_label_of_one_template_keeps_its_texts_apart() -> None:
    cities = [Example(f"how is the weather in {city} today", "weather") for city in ("Rome", "Oslo", "Lima", "Cairo")]
    assert near_duplicate_groups(cities) == [0, 1, 2, 3]
    assert near_duplicate_groups([*cities, Example("will it rain", "weather")]) == [0, 0, 0, 0, 1]


def test_long_texts_are_near_duplicates_if_few_words_differ() -> None:
    words = [f"{first}{second}" for first in ("alpha", "bravo", "delta", "gamma") for second in ("one", "six", "ten")]
    words = [word + end for word in words for end in ("", "able", "ness", "wise")]
    changed = ["hello", *words[1:20], "other", *words[22:40], "changed", "too", *words[42:], "best", "wishes"]
    half = [*words[:24], *(f"new{word}" for word in words[24:])]
    assert are_near_duplicates(" ".join(words), " ".join(changed))
    assert not are_near_duplicates(" ".join(words), " ".join(changed), other_label=True)
    assert not are_near_duplicates(" ".join(words), " ".join(half))


def test_texts_of_the_same_tokens_are_one_group_also_under_other_labels() -> None:
    examples = [Example("สวัสดี", "a"), Example("ขอเงินคืน", "b"), Example("hello", "a")]
    assert near_duplicate_groups(examples, [[1, 3, 2], [1, 3, 2], [1, 9, 2]]) == [0, 0, 1]
    assert new_token_ids([[1, 3, 2], [1, 4, 2]], [[1, 3, 2]]) == [1]


@given(st.lists(st.text(max_size=8), max_size=6))
def test_groups_are_numbered_from_zero_and_contain_equal_texts(texts: list[str]) -> None:
    groups = near_duplicate_groups([Example(text, "a") for text in texts])
    assert sorted(set(groups)) == list(range(len(set(groups))))
    assert all(groups[i] == groups[j] for i in range(len(texts)) for j in range(i) if texts[i] == texts[j])
