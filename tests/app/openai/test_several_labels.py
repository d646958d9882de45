"""Multi-label tasks through OpenAI's client: tuned on lists, answered with lists."""

import json
import math
from typing import Any

import httpx
import openai
import pytest

from tests.app.openai.test_training_data import chat, jsonl
from tests.support.service import EXAMPLES, WorkOff

LABELS = {"billing", "login"}
PAIRS = [(each["input"], [each["output"]]) for each in EXAMPLES]
PAIRS += [
    (f"{one['input']} and {other['input']}", sorted(LABELS))
    for one, other in zip(EXAMPLES[:4], EXAMPLES[4:], strict=True)
]
PAIRS += [("thank you", []), ("hello there", [])]
CHAT = b"\n".join(chat(text, json.dumps(labels)) for text, labels in PAIRS)
USER = [{"role": "user", "content": "i was charged twice and i can not login"}]


def tuned(client: openai.OpenAI, work_off: WorkOff, content: bytes) -> str:
    """Return the model that a training file makes."""
    file = client.files.create(file=("topics.jsonl", content), purpose="fine-tune")
    hyperparameters: Any = {"n_epochs": 2}
    job = client.fine_tuning.jobs.create(model="gpt-4o", training_file=file.id, hyperparameters=hyperparameters)
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert events[-1].message.endswith("a text can have several labels.")
    work_off()
    return client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""


@pytest.fixture
def model(openai_client: openai.OpenAI, work_off: WorkOff) -> str:
    return tuned(openai_client, work_off, CHAT)


@pytest.fixture
def ask(openai_client: openai.OpenAI, model: str) -> Any:
    return lambda **options: openai_client.chat.completions.create(model=model, messages=USER, **options)


@pytest.fixture
def native(client: httpx.Client, model: str) -> dict[str, Any]:
    """The native prediction for the text of `USER`."""
    path = f"/v1/tasks/tsk_{model.rpartition(':')[2]}/predict"
    answer = client.post(path, json={"inputs": [USER[0]["content"]]}).raise_for_status().json()
    prediction: dict[str, Any] = answer["predictions"][0]
    return prediction


def test_the_answer_is_the_list_of_the_labels_that_reach_their_thresholds(ask: Any, native: dict[str, Any]) -> None:
    answer = ask(logprobs=True, top_logprobs=2)
    [choice] = answer.choices
    assert json.loads(choice.message.content) == native["labels"]
    assert native["labels"], "otherwise the test shows nothing"
    tokens = choice.logprobs.content
    assert [token.token for token in tokens] == native["labels"]
    for token in tokens:
        assert {top.token: math.exp(top.logprob) for top in token.top_logprobs} == pytest.approx(native["scores"])
    assert answer.usage.completion_tokens == len(native["labels"])
    *chunks, last = ask(stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert last.usage == answer.usage


def test_json_has_an_array_of_labels(ask: Any, native: dict[str, Any]) -> None:
    def answer(**response_format: Any) -> Any:
        return json.loads(ask(response_format=response_format).choices[0].message.content)

    def schema(entry: dict[str, Any]) -> dict[str, Any]:
        return {"name": "topics", "schema": {"type": "object", "properties": {"topics": entry}}}

    assert answer(type="json_object") == {"labels": native["labels"]}
    array = {"type": "array", "items": {"enum": ["billing", "other"]}}
    allowed = [label for label in native["labels"] if label == "billing"]
    assert answer(type="json_schema", json_schema=schema(array)) == {"topics": allowed}
    with pytest.raises(openai.BadRequestError, match="an array of strings"):
        answer(type="json_schema", json_schema=schema({"type": "string"}))


def test_labels_are_drawn_one_by_one_at_a_temperature(ask: Any, native: dict[str, Any]) -> None:
    sets = [json.loads(choice.message.content) for choice in ask(n=100, temperature=1, seed=3).choices]
    for label, score in native["scores"].items():
        share = sum(label in labels for labels in sets) / len(sets)
        assert share == pytest.approx(score, abs=0.2)
    assert len({tuple(labels) for labels in sets}) > 1


def test_lists_in_pairs_make_a_model_of_several_labels_too(openai_client: openai.OpenAI, work_off: WorkOff) -> None:
    rows = [{"input": text, "output": labels[0] if len(labels) == 1 else labels} for text, labels in PAIRS]
    model = tuned(openai_client, work_off, jsonl(*rows))
    answer = openai_client.completions.create(model=model, prompt="i was charged twice", logprobs=2)
    [choice] = answer.choices
    labels = json.loads(choice.text)
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == labels
    for label, offset in zip(labels, choice.logprobs.text_offset or (), strict=True):
        assert choice.text[offset:].startswith(label)
