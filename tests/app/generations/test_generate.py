"""`POST /v1/tasks/{id}/generate`: complete texts, streams, sampling, and invalid requests."""

from typing import Any

import httpx
import pytest

from tests.support.service import WorkOff, adaptation_body, error_of
from tests.support.text_service import PAIRS, TextService, messages, metric


def test_generate_returns_the_text_of_predict(service: TextService) -> None:
    before = metric("ipt_generation_tokens_total")
    response = service.generate()
    assert response.status_code == 200, response.text
    answer = response.json()
    predicted = service.client.post(f"/v1/tasks/{service.tasks[0]}/predict", json={"inputs": ["hello world"]}).json()
    assert (answer["task_id"], answer["task_version"]) == (service.tasks[0], 1)
    [generation] = answer["generations"]
    assert generation["text"]
    assert 0 < predicted["predictions"][0]["confidence"] <= 1
    assert predicted["predictions"][0]["text"].startswith(generation["text"])  # predict may generate more tokens
    assert generation["finish_reason"] in ("stop", "length")
    assert answer["usage"]["input_tokens"] == 2
    assert answer["usage"]["truncated_inputs"] == 0
    assert metric("ipt_generation_tokens_total") - before == answer["usage"]["generated_tokens"]


def test_an_adaptation_to_texts_has_the_hyperparameters_of_texts(service: TextService) -> None:
    texts = [{"input": f"input {number}", "output": f"output {number}"} for number in range(8)]
    labels = [{"input": f"input {number}", "output": "ab"[number % 2]} for number in range(8)]
    for kind, examples, expected in (("text2text", texts, (60, 8)), ("classification", labels, (100, 18))):
        response = service.client.post("/v1/adaptations", json={"name": "defaults", "examples": examples, "kind": kind})
        assert response.status_code == 202, response.text
        hyperparameters = response.json()["hyperparameters"]
        assert (hyperparameters["steps"], hyperparameters["batch_size"]) == expected
        service.client.post(f"/v1/adaptations/{response.json()['id']}/cancel")


def test_several_inputs_are_answered_in_order(service: TextService) -> None:
    inputs = ["hello world", "play music", "i love my phone", "the cat sat", "me", "you"]
    answer = service.client.post(f"/v1/tasks/{service.tasks[1]}/generate", json={"inputs": inputs}).json()
    single = [service.generate(1, input=text).json() for text in inputs]
    assert answer["generations"] == [answer["generations"][0] for answer in single]
    assert answer["usage"]["generated_tokens"] == sum(answer["usage"]["generated_tokens"] for answer in single)


def test_the_deltas_of_a_stream_add_up_to_the_text(service: TextService) -> None:
    inputs = {"input": None, "inputs": ["hello world", "the cat sat on the mat"], "max_new_tokens": 12}
    whole = service.generate(**inputs).json()
    with service.stream(**inputs) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        received = list(messages(response))
    texts = ["", ""]
    for name, data in received:
        if name == "delta":
            texts[data["index"]] += data["text"]
    assert texts == [generation["text"] for generation in whole["generations"]]
    reasons = {data["index"]: data["finish_reason"] for name, data in received if name == "finished"}
    assert [reasons[0], reasons[1]] == [generation["finish_reason"] for generation in whole["generations"]]
    assert received[-1] == ("done", {key: whole[key] for key in ("task_id", "task_version", "usage")})
    assert sum(name == "delta" for name, _ in received) > 2


def test_the_same_seed_samples_the_same_text(service: TextService) -> None:
    drawn = {"temperature": 20, "top_k": 100, "top_p": 0.99, "max_new_tokens": 8}
    texts = [service.generate(seed=seed, **drawn).json()["generations"][0]["text"] for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_beam_search_ends_at_a_stop_string(service: TextService) -> None:
    [best] = service.generate(num_beams=3, max_new_tokens=10).json()["generations"]
    text = best["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    [stopped] = service.generate(num_beams=3, max_new_tokens=10, stop=[stop]).json()["generations"]
    assert stopped == {"text": text[: text.index(stop)].strip(), "finish_reason": "stop"}


def test_a_long_input_is_truncated_and_counted(service: TextService) -> None:
    before = metric("ipt_generation_truncated_inputs_total")
    answer = service.generate(input="the cat sat " * 500, max_new_tokens=10).json()
    assert answer["usage"]["truncated_inputs"] == 1
    assert answer["usage"]["input_tokens"] == 64 - 4 - 10
    assert metric("ipt_generation_truncated_inputs_total") - before == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_new_tokens": 25}, "max_new_tokens"),
        ({"max_new_tokens": 10**9}, "max_new_tokens"),
        ({"max_new_tokens": 10**12}, "max_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ["x" * 2**20]}, "stop[0]"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 5}, "stop"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"num_beams": 2, "temperature": 1}, "num_beams"),
        ({"num_beams": 1000}, "num_beams"),
        ({"inputs": ["x"]}, None),
        ({"input": None}, None),
        ({"input": "x" * 20_000}, "input"),
        ({"input": None, "inputs": ["x", "\x00"]}, "inputs[1]"),
    ],
)
def test_invalid_parameters_are_rejected(service: TextService, body: dict[str, Any], param: str | None) -> None:
    response = service.generate(**body)
    assert (response.status_code, error_of(response)["param"]) == (422, param)
    with service.stream(**body) as streamed:
        assert streamed.status_code == 422


def test_a_missing_version_is_404(service: TextService) -> None:
    assert error_of(service.generate(version=2))["code"] == "version_not_found"


def test_an_encoder_cannot_generate(client: httpx.Client, work_off: WorkOff) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    response = client.post(f"/v1/tasks/{task_id}/generate", json={"input": "hello"})
    assert (response.status_code, error_of(response)["code"]) == (409, "backbone_writes_no_text")
    assert "is an encoder, which classifies but does not write text" in error_of(response)["message"]


def test_generations_are_counted(service: TextService) -> None:
    service.generate()
    computed, kept = (metric("ipt_generation_prompts_total", source=source) for source in ("computed", "kept"))
    service.generate()
    text = service.client.get("/metrics").text
    for name in (
        "generations_total",
        "generation_tokens_total",
        "generation_batch_rows_bucket",
        "generation_row_limit",
    ):
        assert f"\nipt_{name}" in text
    assert computed > 0
    assert metric("ipt_generation_prompts_total", source="computed") == computed
    assert metric("ipt_generation_prompts_total", source="kept") > kept


def test_a_version_reports_the_texts_of_its_held_back_examples(service: TextService) -> None:
    task = service.client.get(f"/v1/tasks/{service.tasks[0]}").json()
    metrics = task["versions"][0]["metrics"]
    answer = service.client.get(f"/v1/tasks/{service.tasks[0]}/versions/1/report").json()
    report = answer["report"]
    assert (answer["source"], report["kind"]) == ("held_back", "text2text")
    assert (report["rows"], report["exact_match"]) == (metrics["held_back"], metrics["exact_match"])
    assert report["token_f1"] == pytest.approx(metrics["token_f1"])
    assert (answer["suspects"], answer["near_duplicates"]) == ([], [])
    wrong = report["wrong"][0]
    assert {"input": wrong["input"], "output": wrong["expected"]} == PAIRS[wrong["row"]]
    predicted = service.client.post(f"/v1/tasks/{service.tasks[0]}/predict", json={"inputs": [wrong["input"]]}).json()
    assert predicted["predictions"][0]["text"].startswith(wrong["predicted"])


def test_texts_are_evaluated_by_exact_match(service: TextService) -> None:
    task = f"/v1/tasks/{service.tasks[0]}"
    inputs = ["hello world", "play music"]
    predicted = service.client.post(f"{task}/predict", json={"inputs": inputs}).json()["predictions"]
    examples = [
        {"input": inputs[0], "output": f" {predicted[0]['text']} "},
        {"input": inputs[1], "output": f"not {predicted[1]['text']}"},
    ]
    answer = service.client.post(f"{task}/evaluate", json={"examples": examples, "compare_with": 1}).json()
    report = answer["report"]
    assert (report["kind"], report["rows"], report["exact_match"], report["wrong_count"]) == ("text2text", 2, 0.5, 1)
    assert 0 < report["exact_match_low"] < 0.5 < report["exact_match_high"] < 1
    assert report["exact_match"] < min(report["token_f1"], report["rouge_l"]) <= 1
    [wrong] = report["wrong"]
    assert (wrong["row"], wrong["expected"], wrong["predicted"]) == (1, examples[1]["output"], predicted[1]["text"])
    assert answer["comparison"]["p_value"] == 1.0
