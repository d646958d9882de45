"""Texts that have to fit a JSON schema."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ipt
from ipt.errors import IptError
from ipt.generation.json_format import MAX_SCHEMA_BYTES, JsonSchema
from tests.support.tiny import build_tiny_text
from tests.support.tiny_chat import build_tiny_chat, save_chat_subspace

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

ORDER = {
    "type": "object",
    "properties": {
        "product": {"type": "string", "minLength": 2},
        "count": {"type": "integer", "minimum": 10},
        "date": {"type": "string", "format": "date"},
        "size": {"enum": ["small", "smaller", None, 3]},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1, "maxItems": 3},
        "note": {"anyOf": [{"type": "string", "pattern": "^[a-c]+$"}, {"type": "number"}, {"type": "boolean"}]},
    },
    "required": ["product", "count", "date", "size", "lines"],
    "$defs": {"line": {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> ipt.GenerationEngine:
    folder = tmp_path_factory.mktemp("chat")
    backbone = ipt.load_backbone(str(build_tiny_chat(folder / "backbone")), device="cpu")
    return ipt.GenerationEngine(backbone, save_chat_subspace(folder / "subspace", backbone))


def texts(engine: ipt.GenerationEngine, schema: dict[str, Any], tokens: int, count: int) -> list[ipt.TextFinished]:
    """Return sampled texts of a model with random weights, half of them without a schema."""
    rng = np.random.default_rng(0)
    head = ipt.TaskHead(rng.normal(size=8).astype(np.float32), engine.subspace.id, "text2text", (), None)
    for number in range(count):
        for constrained in (True, False):
            parameters = ipt.GenerationParameters(
                tokens, temperature=1.5, seed=number, json_schema=JsonSchema.of(schema) if constrained else None
            )
            task = ipt.BoundTask(head, engine.subspace.initial_vectors[0], None)
            engine.add(ipt.GenerationRequest(f"{number}-{constrained}", task, "hello", parameters))
    finished: dict[str, ipt.TextFinished] = {}
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, ipt.TextFinished):
                finished[event.request_id] = event
    assert not any(event.error for event in finished.values())
    return [finished[f"{number}-True"] for number in range(count)]


@pytest.mark.parametrize("tokens", [1, 20, 40])
def test_every_text_fits_the_schema_even_if_it_is_cut(engine: ipt.GenerationEngine, tokens: int) -> None:
    finished = texts(engine, ORDER, tokens, 12)
    for event in finished:
        jsonschema.validate(json.loads(event.text), ORDER)
        assert event.generated_tokens <= tokens
    assert len({event.text for event in finished}) > 1 or tokens == 1


def test_a_text_ends_by_itself_when_it_fits(engine: ipt.GenerationEngine) -> None:
    [event] = texts(engine, {"type": "object", "properties": {"ok": {"const": "yes"}}, "required": ["ok"]}, 30, 1)
    assert (json.loads(event.text), event.reason) == ({"ok": "yes"}, "stop")


NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "is empty, so that any JSON fits"),
        ({"title": "Anything"}, "is empty, so that any JSON fits"),
        ({"type": "array", "items": {}}, "is empty in items"),
        ({"type": "object", "additionalProperties": True}, "is true in additionalProperties"),
        ({"$ref": "#"}, "is recursive: '#' contains itself"),
        ({"$defs": {"node": NODE}, "$ref": "#/$defs/node"}, "is recursive: '#/\\$defs/node' contains itself"),
        ({"$ref": "#/$defs/none"}, "which it does not have"),
        ({"$ref": "https://example.org/schema"}, "only references within the schema"),
        ({"enum": ["x" * 1_000_000]}, f"bytes, of at most {MAX_SCHEMA_BYTES:,}"),
        (
            {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            'Unimplemented keys: \\["uniqueItems"\\]',
        ),
        ({"type": "text"}, "Invalid type: text"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "Unsatisfiable"),
        ({"const": float("nan")}, "is not JSON"),
    ],
)
def test_an_unusable_schema_is_rejected(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(IptError, match=message) as caught:
        JsonSchema.of(schema)
    assert caught.value.param == "format"
    assert "\n" not in caught.value.message


def test_a_deep_schema_is_rejected() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    with pytest.raises(IptError, match="more than 32 schemas within each other"):
        JsonSchema.of(schema)


def test_beams_and_stop_strings_exclude_a_schema() -> None:
    schema = JsonSchema.of({"type": "integer"})
    with pytest.raises(IptError, match="num_beams must be 1"):
        ipt.GenerationParameters(num_beams=2, json_schema=schema)
    with pytest.raises(IptError, match="stop must be empty"):
        ipt.GenerationParameters(stop=("}",), json_schema=schema)


def test_a_tokenizer_of_words_cannot_write_json(tmp_path: Path) -> None:
    backbone_dir, subspace_dir = build_tiny_text(tmp_path, "gpt2")
    backbone = ipt.load_backbone(str(backbone_dir), device="cpu")
    engine = ipt.GenerationEngine(backbone, ipt.load_subspace(subspace_dir, backbone))
    with pytest.raises(ipt.BackboneError, match="cannot write JSON"):
        engine.check_schema(JsonSchema.of({"type": "integer"}))
