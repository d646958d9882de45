"""Embeddings through OpenAI's client: behind a task's prompt, or the backbone's own."""

import base64
from typing import Any, cast

import httpx
import numpy as np
import openai
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from tests.support.service import WorkOff, adaptation_body

TEXTS = ["i was charged twice", "password does not work , please help me with my account"]


@pytest.fixture
def model(client: httpx.Client, work_off: WorkOff, openai_client: openai.OpenAI) -> str:
    client.post("/v1/adaptations", json=adaptation_body())
    work_off()
    [_, model] = openai_client.models.list()
    return model.id


def embed(client: openai.OpenAI, model: str, **options: Any) -> Any:
    return client.embeddings.create(**({"model": model, "input": TEXTS} | options))


def numbers(answer: Any) -> Any:
    return np.array([entry.embedding for entry in answer.data])


def test_the_base_model_has_the_frozen_embeddings(
    openai_client: openai.OpenAI, tiny_core: tuple[ipt.Backbone, ipt.Subspace]
) -> None:
    backbone, subspace = tiny_core
    expected = np.array(ipt.Predictor(backbone, subspace).embed_frozen(TEXTS))
    base = openai_client.models.list().data[0].id
    for name in (base, "text-embedding-3-small"):
        answer = embed(openai_client, name)
        assert numbers(answer) == pytest.approx(expected, abs=1e-4)
        assert [entry.index for entry in answer.data] == [0, 1]
    tokens = sum(len(ids) for ids in backbone.tokenize(TEXTS))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert numbers(embed(openai_client, base, input=TEXTS[0])) == pytest.approx(expected[:1], abs=1e-4)


def test_a_fine_tuned_model_has_the_embeddings_behind_its_prompt(
    client: httpx.Client, openai_client: openai.OpenAI, model: str, tiny_core: tuple[ipt.Backbone, ipt.Subspace]
) -> None:
    backbone, subspace = tiny_core
    vector = client.get(f"/v1/tasks/tsk_{model.rpartition(':')[2]}/vector").json()["vector"]
    prompts = subspace.decoder(torch.tensor([vector])).expand(len(TEXTS), -1, -1)
    expected = cast(EncoderBackbone, backbone).embed(backbone.tokenize(TEXTS), prompts).detach().numpy()
    assert numbers(embed(openai_client, model)) == pytest.approx(expected, abs=1e-4)


def test_both_encodings_have_the_same_numbers(openai_client: openai.OpenAI, client: httpx.Client) -> None:
    body = {"model": "gpt-4o-mini", "input": TEXTS}
    path = "/openai/v1/embeddings"
    floats = client.post(path, json=body).json()["data"]
    encoded = client.post(path, json=body | {"encoding_format": "base64"}).json()["data"]
    decoded = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in encoded]
    assert np.array(decoded) == pytest.approx(np.array([entry["embedding"] for entry in floats]), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"model": "ft:a:b:c:" + "0" * 24}, openai.NotFoundError, "model"),
        ({"model": "e5-large"}, openai.NotFoundError, "model"),
        ({"dimensions": 8}, openai.BadRequestError, "dimensions"),
        ({"input": []}, openai.BadRequestError, "input"),
        ({"input": ""}, openai.BadRequestError, "input"),
        ({"input": [1, 2]}, openai.BadRequestError, "input"),
        ({"input": "x" * 10_001}, openai.BadRequestError, "input"),
        ({"input": ["x"] * 257}, openai.BadRequestError, "input"),
    ],
)
def test_what_cannot_be_embedded_is_named(
    openai_client: openai.OpenAI, options: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as raised:
        openai_client.embeddings.create(**({"model": "gpt-4o-mini", "input": TEXTS} | options))
    assert raised.value.body["param"] == param


def test_the_dimensions_that_the_model_has_are_accepted(openai_client: openai.OpenAI) -> None:
    assert numbers(embed(openai_client, "gpt-4o-mini", dimensions=32)).shape == (2, 32)


def test_a_model_that_is_not_tuned_yet_embeds_nothing(client: httpx.Client, openai_client: openai.OpenAI) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    with pytest.raises(openai.NotFoundError):
        embed(openai_client, task_id.replace("tsk_", "ft:a:b:c:"))
