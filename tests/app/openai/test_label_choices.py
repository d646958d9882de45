"""Labels are chosen by their probabilities and written in the requested form."""

import enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from app.errors import InvalidError
from app.openai.completions.choices import Sampling, choose, choose_sets, cut, logprob, top_logprobs
from app.openai.completions.label_format import ResponseFormat, label_format

SCORES = {"a": 0.2, "b": 0.7, "c": 0.1, "d": 0.0}


def of_schema(schema: Any) -> ResponseFormat:
    return ResponseFormat(type="json_schema", json_schema={"name": "label", "schema": schema})


def test_a_temperature_flattens_and_top_p_cuts_the_probabilities() -> None:
    def drawn(temperature: float, top_p: float | None = None) -> dict[str, float]:
        labels = choose(SCORES, 20_000, Sampling(temperature, top_p, seed=3))
        return {label: labels.count(label) / len(labels) for label in SCORES}

    assert drawn(1) == pytest.approx(SCORES, abs=0.02)
    assert drawn(1, 0.75) == pytest.approx({"a": 2 / 9, "b": 7 / 9, "c": 0, "d": 0}, abs=0.02)
    assert drawn(1, 0.6)["b"] == 1
    assert drawn(2)["b"] < 0.6
    assert drawn(0.01)["b"] == 1


def test_each_label_of_a_set_is_drawn_with_its_own_probability() -> None:
    scores = {"a": 0.9, "b": 0.6, "c": 0.1}
    assert choose_sets(scores, ("b", "x", "a"), 2, Sampling(None, None, None)) == [["b", "a"]] * 2
    sets = choose_sets(scores, (), 20_000, Sampling(1, None, seed=3))
    for label, score in scores.items():
        assert sum(label in labels for labels in sets) / len(sets) == pytest.approx(score, abs=0.02)
    both = sum({"a", "b"} <= set(labels) for labels in sets) / len(sets)
    assert both == pytest.approx(0.9 * 0.6, abs=0.02), "the labels are drawn independently"
    assert choose_sets(scores, (), 3, Sampling(1, 0.5, seed=3)) == [["a", "b"]] * 3


def test_a_zero_probability_has_a_finite_logarithm() -> None:
    assert logprob(1.0) == 0
    assert top_logprobs(SCORES, 9)[-1] == ("d", -9999.0)
    assert [label for label, _ in top_logprobs(SCORES, 2)] == ["b", "a"]


def test_a_text_ends_before_its_first_stop_string() -> None:
    assert cut("one two three", ["three", "two", "four"]) == "one "
    assert cut("one", []) == "one"


def test_an_enum_restricts_the_labels() -> None:
    form = label_format(of_schema({"type": "object", "properties": {"kind": {"enum": ["a", "c", "x"]}}}), several=False)
    assert form.restrict(SCORES) == pytest.approx({"a": 2 / 3, "c": 1 / 3})
    assert form.write(["ä"]) == '{"kind": "ä"}'
    assert form.write(['{"kind": "a"}']) == '{"kind": "a"}'
    only_zero = label_format(of_schema({"type": "object", "properties": {"kind": {"enum": ["d"]}}}), several=False)
    assert only_zero.restrict(SCORES) == {"d": 1}


def test_an_enum_is_read_as_pydantic_writes_it() -> None:
    class Kind(enum.StrEnum):
        A = "a"
        C = "c"

    class ByEnum(BaseModel):
        kind: Kind

    class ByLiteral(BaseModel):
        kind: Literal["a"]

    def allowed(model: type[BaseModel]) -> frozenset[str] | None:
        return label_format(of_schema(model.model_json_schema()), several=False).allowed

    assert (allowed(ByEnum), allowed(ByLiteral)) == ({"a", "c"}, {"a"})


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"type": "object", "properties": {"a": {"$ref": 1}}, "$defs": []},
        {"type": "object", "properties": {"a": {"$ref": "https://a.example/b"}}, "$defs": {"b": {"type": "string"}}},
        {"type": "array"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "number"}}},
        {"type": "object", "properties": {"a": {"enum": [1]}}},
        {"type": "object", "properties": {"a": True}},
    ],
)
def test_a_schema_that_no_label_fits_is_rejected(schema: Any) -> None:
    with pytest.raises(InvalidError, match="one property"):
        label_format(of_schema(schema), several=False)
