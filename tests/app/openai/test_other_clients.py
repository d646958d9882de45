"""Other clients that speak OpenAI's dialect: LangChain and LiteLLM, where they are installed (`make test-optional`)."""

from typing import Any

import httpx
import pytest

from app.openai.dialect import PREFIX
from tests.support.service import WorkOff, adaptation_body

LABELS = {"billing", "login"}
QUESTION = "i was charged twice"


@pytest.fixture
def model(client: httpx.Client, work_off: WorkOff) -> str:
    client.post("/v1/adaptations", json=adaptation_body())
    work_off()
    name: str = client.get(f"{PREFIX}/models").json()["data"][1]["id"]
    return name


@pytest.fixture
def connection(client: httpx.Client) -> dict[str, str]:
    """The address and the key, as both clients take them."""
    return {
        "base_url": f"{client.base_url}{PREFIX}",
        "api_key": client.headers["authorization"].removeprefix("Bearer "),
    }


def test_langchain_answers_streams_and_embeds(model: str, connection: dict[str, str]) -> None:
    langchain: Any = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(model=model, logprobs=True, **connection)
    answer = chat.invoke(QUESTION)
    assert answer.content in LABELS
    assert answer.usage_metadata["output_tokens"] == 1
    assert answer.response_metadata["logprobs"]["content"][0]["token"] == answer.content
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == answer.content
    embeddings = langchain.OpenAIEmbeddings(model=model, check_embedding_ctx_length=False, **connection)
    assert len(embeddings.embed_query(QUESTION)) == 32


def test_litellm_answers_and_embeds(model: str, connection: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the internet for prices
    litellm: Any = pytest.importorskip("litellm")
    messages = [{"role": "user", "content": QUESTION}]
    answer = litellm.completion(model=f"openai/{model}", messages=messages, **connection)
    assert answer.choices[0].message.content in LABELS
    streamed = litellm.completion(model=f"openai/{model}", messages=messages, stream=True, **connection)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == answer.choices[0].message.content
    embedded = litellm.embedding(
        model=f"openai/{model}", input=[QUESTION], api_base=connection["base_url"], api_key=connection["api_key"]
    )
    assert len(embedded.data[0]["embedding"]) == 32
