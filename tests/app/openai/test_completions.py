"""Chat completions and completions of a classification task, through OpenAI's client."""

import json
import math
from typing import Any

import httpx
import openai
import pytest

from tests.app.openai.test_training_data import chat, jsonl
from tests.support.service import EXAMPLES, WorkOff, adaptation_body

LABELS = {"billing", "login"}
USER = [{"role": "user", "content": "i was charged twice"}]


@pytest.fixture
def task_id(client: httpx.Client, work_off: WorkOff) -> str:
    task_id: str = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    return task_id


@pytest.fixture
def model(task_id: str, openai_client: openai.OpenAI) -> str:
    [_, model] = openai_client.models.list()
    return model.id


@pytest.fixture
def scores(client: httpx.Client, task_id: str) -> dict[str, float]:
    """The native prediction for the text of `USER`."""
    answer = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": ["i was charged twice"]}).json()
    scores: dict[str, float] = answer["predictions"][0]["scores"]
    return scores


@pytest.fixture
def ask(openai_client: openai.OpenAI, model: str) -> Any:
    return lambda messages=USER, **options: openai_client.chat.completions.create(
        model=model, messages=messages, **options
    )


def best(scores: dict[str, float]) -> str:
    return max(scores, key=scores.__getitem__)


def test_the_answer_is_the_label_of_predict(ask: Any, model: str, scores: dict[str, float]) -> None:
    answer = ask()
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", best(scores), "stop")
    assert choice.logprobs is None
    assert (answer.object, answer.model) == ("chat.completion", model)
    usage = answer.usage
    assert usage.completion_tokens == 1
    assert usage.prompt_tokens > len(["i", "was", "charged", "twice"])
    assert usage.total_tokens == usage.prompt_tokens + 1


def test_logprobs_are_the_scores_of_all_labels(ask: Any, scores: dict[str, float]) -> None:
    [entry] = ask(logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert entry.token == best(scores)
    assert {top.token: math.exp(top.logprob) for top in entry.top_logprobs} == pytest.approx(scores)
    assert bytes(entry.bytes).decode() == entry.token


def test_a_constant_system_message_changes_nothing(ask: Any) -> None:
    system = [{"role": "system", "content": "You sort tickets."}]
    plain, with_system = (ask(messages, logprobs=True).choices for messages in (USER, system + USER))
    assert plain == with_system


def test_a_stream_has_the_label_and_the_usage(ask: Any, scores: dict[str, float]) -> None:
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    *answer, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == best(scores)
    assert answer[0].choices[0].delta.role == "assistant"
    assert answer[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], 1)
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in ask(stream=True))


def test_labels_are_sampled_at_a_temperature(ask: Any, scores: dict[str, float]) -> None:
    def draw(**options: Any) -> list[str]:
        return [choice.message.content for choice in ask(n=64, **options).choices]

    assert set(draw()) == {best(scores)}
    assert set(draw(temperature=2, seed=1)) == LABELS
    assert draw(temperature=2, seed=1) == draw(temperature=2, seed=1) != draw(temperature=2, seed=2)
    assert set(draw(temperature=2, seed=1, top_p=0)) == {best(scores)}


@pytest.mark.parametrize("allowed", [["billing"], ["login", "other"], None])
def test_a_json_schema_restricts_the_labels(ask: Any, scores: dict[str, float], allowed: list[str] | None) -> None:
    entry = {"type": "string"} | ({"enum": allowed} if allowed else {})
    schema = {"type": "object", "properties": {"kind": entry}, "required": ["kind"], "additionalProperties": False}
    answer = ask(response_format={"type": "json_schema", "json_schema": {"name": "kind", "schema": schema}})
    expected = best({label: scores[label] for label in LABELS & set(allowed or LABELS)})
    assert json.loads(answer.choices[0].message.content) == {"kind": expected}


def test_a_json_object_has_the_label(ask: Any, scores: dict[str, float]) -> None:
    content = ask(response_format={"type": "json_object"}).choices[0].message.content
    assert json.loads(content) == {"label": best(scores)}


def test_a_stop_string_ends_the_label(ask: Any, scores: dict[str, float]) -> None:
    label = best(scores)
    assert ask(stop=[label[2:4], "zzz"]).choices[0].message.content == label[:2]
    with pytest.raises(openai.BadRequestError, match="400 - has 5 entries; at most 4"):
        ask(stop=list("abcde"))


def test_fields_without_effect_are_ignored_and_named(openai_client: openai.OpenAI, model: str) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(
        model=model, messages=USER, user="me", store=False, metadata={"a": "b"}, presence_penalty=0, tools=[]
    )
    assert raw.parse().choices[0].message.content in LABELS
    assert raw.headers["x-ignored-parameters"] == "metadata,store,user"
    assert raw.headers["openai-processing-ms"].isdecimal()
    assert raw.request_id


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"n": 0}, "at least 1"),
        ({"temperature": 3}, "at most 2"),
        ({"messages": []}, "at least 1"),
        ({"messages": [{"role": "system", "content": "hi"}]}, "needs a message of the user"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "only text"),
        ({"messages": [{"role": "tool", "content": "hi", "tool_call_id": "1"}]}, "tool calls"),
        ({"messages": [{"role": "user", "content": "a" * 10_001}]}, "10000 characters"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}}, "one property"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object", "properties": {"a": {"enum": ["x"]}}}},
                }
            },
            "no label",
        ),
    ],
)
def test_a_wrong_field_is_a_bad_request(ask: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as raised:
        ask(**options)
    assert raised.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("logit_bias", {"1": 5}),
        ("frequency_penalty", 0.5),
        ("modalities", ["audio"]),
    ],
)
def test_a_field_that_would_change_the_answer_is_named(ask: Any, param: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(**{param: value})
    assert (raised.value.param, raised.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize("name", ["gpt-4o-mini", "backbone", "ft:a:b:c:" + "0" * 24, "tsk_1"])
def test_an_unknown_model_is_not_found(openai_client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.chat.completions.create(model=name, messages=USER)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_a_model_whose_job_has_not_succeeded_is_not_found(client: httpx.Client, openai_client: openai.OpenAI) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    with pytest.raises(openai.NotFoundError):
        openai_client.completions.create(model=task_id.replace("tsk_", "ft:a:b:c:"), prompt="hello")


def test_completions_answer_every_prompt_without_its_separator(
    openai_client: openai.OpenAI, model: str, scores: dict[str, float]
) -> None:
    prompts = ["i was charged twice\n\n###\n\n", "login screen is broken ->"]
    answer = openai_client.completions.create(model=model, prompt=prompts, n=2, logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    first, _, third, _ = answer.choices
    assert (first.text, first.finish_reason) == (best(scores), "stop")
    assert first.logprobs.tokens == [first.text]
    assert {label: math.exp(value) for label, value in first.logprobs.top_logprobs[0].items()} == pytest.approx(scores)
    alone = openai_client.completions.create(model=model, prompt="login screen is broken", logprobs=2)
    assert alone.choices[0].text == third.text
    assert alone.choices[0].logprobs.top_logprobs[0] == pytest.approx(third.logprobs.top_logprobs[0], abs=1e-4)
    assert answer.usage.completion_tokens == 4
    streamed = openai_client.completions.create(model=model, prompt=prompts, stream=True)
    assert [chunk.choices[0].text for chunk in streamed] == [first.text, third.text]


@pytest.mark.parametrize("options", [{"echo": True}, {"best_of": 3}, {"suffix": "x"}, {"prompt": [1, 2]}])
def test_what_completions_cannot_do_is_a_bad_request(
    openai_client: openai.OpenAI, model: str, options: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        openai_client.completions.create(**({"model": model, "prompt": "a"} | options))


def test_system_messages_that_differed_in_tuning_are_read(openai_client: openai.OpenAI, work_off: WorkOff) -> None:
    lines = [chat(each["input"], each["output"], system=f"ticket {i}") for i, each in enumerate(EXAMPLES)]
    file = openai_client.files.create(file=("t.jsonl", b"\n".join(lines)), purpose="fine-tune")
    job = openai_client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 1}
    )
    work_off()
    model = openai_client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert model is not None
    usages = [
        openai_client.chat.completions.create(model=model, messages=messages).usage
        for messages in (USER, [{"role": "system", "content": "ticket 1"}, *USER])
    ]
    assert usages[0] is not None
    assert usages[1] is not None
    assert usages[1].prompt_tokens > usages[0].prompt_tokens


def test_labels_that_are_json_objects_are_the_answer(openai_client: openai.OpenAI, work_off: WorkOff) -> None:
    lines = [{"input": each["input"], "output": json.dumps({"kind": each["output"]})} for each in EXAMPLES]
    file = openai_client.files.create(file=("t.jsonl", jsonl(*lines)), purpose="fine-tune")
    job = openai_client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 1}
    )
    work_off()
    answer = openai_client.chat.completions.create(
        model=openai_client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or "",
        messages=USER,
        response_format={"type": "json_object"},
    )
    assert set(json.loads(answer.choices[0].message.content or "")) == {"kind"}
