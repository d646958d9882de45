"""Chat completions and completions of text-to-text tasks, through OpenAI's client."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from app.openai.dialect import PREFIX
from tests.support.text_service import API_KEY, Gate, TextService, running_text_service

HELLO = [{"role": "user", "content": "hello world"}]


@pytest.fixture(scope="module")
def service(make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextService]:
    with running_text_service(tmp_path_factory.mktemp("text-service"), make_database()) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: TextService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.client.base_url}{PREFIX}", api_key=API_KEY, max_retries=0)


@pytest.fixture(scope="module")
def ask(service: TextService, client: openai.OpenAI) -> Any:
    model = service.tasks[0].replace("tsk_", "ft:a:b:c:")
    return lambda **options: client.chat.completions.create(**({"model": model, "messages": HELLO} | options))


def test_the_answer_is_the_text_of_generate(service: TextService, ask: Any) -> None:
    native = service.generate(max_new_tokens=12).json()
    answer = ask(max_tokens=12)
    [choice] = answer.choices
    assert choice.message.content == native["generations"][0]["text"]
    assert choice.finish_reason == native["generations"][0]["finish_reason"]
    usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert usage == (native["usage"]["input_tokens"], native["usage"]["generated_tokens"])


def test_a_stream_adds_up_to_the_text(ask: Any) -> None:
    whole = ask(max_completion_tokens=12)
    *chunks, last = ask(max_completion_tokens=12, stream=True, stream_options={"include_usage": True})
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 1
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (last.choices, last.usage) == ([], whole.usage)


def test_several_choices_are_sampled_and_the_prompt_counts_once(ask: Any) -> None:
    answer = ask(n=3, temperature=2, max_tokens=8)
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage.prompt_tokens == ask(max_tokens=8).usage.prompt_tokens


def test_the_same_seed_gives_the_same_text(ask: Any) -> None:
    texts = [ask(temperature=2, seed=seed, max_tokens=8).choices[0].message.content for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_completions_complete_every_prompt(service: TextService, client: openai.OpenAI) -> None:
    model = service.tasks[1].replace("tsk_", "ft:a:b:c:")
    prompts = ["hello world ->", "play music\n\n###\n\n"]
    answer = client.completions.create(model=model, prompt=prompts, max_tokens=8)
    native = service.generate(1, input=None, inputs=["hello world", "play music"], max_new_tokens=8).json()
    assert [choice.text for choice in answer.choices] == [each["text"] for each in native["generations"]]
    pieces = ["", ""]
    for chunk in client.completions.create(model=model, prompt=prompts, max_tokens=8, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == [choice.text for choice in answer.choices]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 25}, "max_tokens"),
        ({"n": 2, "seed": 1, "temperature": 1}, "seed"),
    ],
)
def test_what_a_text_task_cannot_do_is_a_bad_request(ask: Any, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(**options)
    assert raised.value.param == param


def test_an_unknown_model_is_not_found(ask: Any) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        ask(model="ft:a:b:c:" + "0" * 24)
    assert raised.value.code == "model_not_found"


def test_a_backbone_that_writes_has_no_embeddings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no sentence embeddings") as raised:
        client.embeddings.create(model="gpt-4o-mini", input="hello")
    assert raised.value.param == "model"


def test_a_model_that_is_deleted_while_it_streams_completes_its_answer(
    service: TextService, client: openai.OpenAI, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = service.tasks[1].replace("tsk_", "ft:a:b:c:")
    whole = ask(model=model, max_tokens=12).choices[0]
    gate = Gate(service.engine, monkeypatch)
    gate.open(2)
    chunks = ask(model=model, max_tokens=12, stream=True)
    received = [next(chunks)]
    while not received[-1].choices[0].delta.content:
        received.append(next(chunks))
    client.models.delete(model)
    gate.open()
    received += chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received) == whole.message.content
    assert received[-1].choices[0].finish_reason == whole.finish_reason
    with pytest.raises(openai.NotFoundError, match=f"the model '{model}' does not exist"):
        ask(model=model)
