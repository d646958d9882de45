"""Fields of request bodies."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from app.http.fields import Body, StrictBody
from app.main import create_app
from app.settings import Settings


class Numbers(Body):
    count: int | None = None
    seed: int | Literal["auto"] = "auto"
    rate: float = 1.0


def test_an_integer_may_be_written_as_a_float() -> None:
    numbers = Numbers.model_validate({"count": 47.0, "seed": -1.0, "rate": 2.0})
    assert [type(value) for _, value in numbers] == [int, int, float]
    assert (numbers.count, numbers.seed, numbers.rate) == (47, -1, 2.0)


@pytest.mark.parametrize("value", [47.5, "47", True, float("nan"), float("inf")])
def test_no_other_value_becomes_an_integer(value: Any) -> None:
    with pytest.raises(ValidationError):
        Numbers.model_validate({"count": value})


def references(schema: Any) -> Iterator[str]:
    """Yield the names of the models that an OpenAPI schema refers to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def subclasses(model: type) -> Iterator[type]:
    for each in model.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_request_body_takes_whole_floats_as_integers() -> None:
    schema = create_app(Settings(api_key="k" * 16)).openapi()
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    models: set[str] = set()
    new = set(references([operation.get("requestBody") for operation in operations]))
    while new:
        models |= new
        new = {name for model in new for name in references(schema["components"]["schemas"][model])} - models
    assert len(models) > 20
    models.remove("JsonValue")  # any value
    assert models - {each.__name__ for each in subclasses(StrictBody)} == set()
