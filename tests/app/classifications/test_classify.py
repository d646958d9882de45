"""`POST /v1/classify`: examples and inputs in one request."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

import ipt
from app.cli.root import run
from app.db.session import transaction
from app.db.tables import METADATA
from tests.support.service import EXAMPLES, Serve, error_of

INPUTS = ["i was charged twice", "login screen is broken"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each step of a tuning engine in this process, which has the service too."""
    steps: list[int] = []
    step = ipt.TuningEngine.step

    def record(engine: ipt.TuningEngine) -> Any:
        steps.append(len(engine.job_ids))
        return step(engine)

    monkeypatch.setattr(ipt.TuningEngine, "step", record)
    return steps


def classify(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/classify", json={"examples": EXAMPLES, "inputs": INPUTS} | changes)


def rows_of_all_tables(engine: Engine) -> dict[str, int]:
    with transaction(engine) as session:
        counts = {name: session.execute(text(f"SELECT count(*) FROM {name}")) for name in METADATA.tables}
        return {name: count.scalar_one() for name, count in counts.items()}


def test_every_label_has_a_confidence_and_nothing_is_stored(client: httpx.Client, service_engine: Engine) -> None:
    before = rows_of_all_tables(service_engine)
    response = classify(client)
    assert response.status_code == 200
    answer = response.json()
    assert [prediction["label"] for prediction in answer["predictions"]] == ["billing", "login"]
    for prediction in answer["predictions"]:
        assert sum(prediction["scores"].values()) == pytest.approx(1)
        assert set(prediction["scores"]) == {"billing", "login"}
    assert answer["warnings"] == []
    assert float(response.headers["x-inference-time"]) > 0
    assert rows_of_all_tables(service_engine) == before


def test_the_answer_is_that_of_an_adaptation_without_steps_at_the_first_start(
    client: httpx.Client, tiny_core: tuple[ipt.Backbone, ipt.Subspace]
) -> None:
    backbone, subspace = tiny_core
    examples = [ipt.Example(**example) for example in EXAMPLES]
    start = subspace.initial_vectors[:1].numpy()
    task = ipt.adapt(backbone, subspace, examples, hyperparameters=ipt.Hyperparameters(steps=0), initial_vectors=start)
    expected = ipt.Predictor(backbone, subspace).predict([(task.head, text) for text in INPUTS])
    for prediction, other in zip(classify(client).json()["predictions"], expected, strict=True):
        assert prediction["scores"] == pytest.approx(other.scores, abs=1e-4)


def test_the_same_examples_are_fitted_once_for_each_tenant(
    new_client: Callable[[], httpx.Client], steps: list[int]
) -> None:
    client, other = new_client(), new_client()
    first = classify(client).json()
    fitted = len(steps)
    assert fitted > 0
    assert classify(client).json() == first
    again = classify(client, inputs=["password"], top_k=1).json()["predictions"]
    assert [len(prediction["scores"]) for prediction in again] == [1]
    assert len(steps) == fitted
    assert classify(other).json() == first
    assert len(steps) == 2 * fitted
    classify(client, examples=EXAMPLES[:-1])
    assert len(steps) == 3 * fitted


def test_what_was_fitted_is_forgotten_beyond_the_bytes_of_the_cache(serve: Serve, steps: list[int]) -> None:
    with serve(classify_cached_bytes=0) as client:
        classify(client)
        fitted = len(steps)
        classify(client)
        assert len(steps) == 2 * fitted


def test_equal_requests_that_arrive_together_are_fitted_once(client: httpx.Client, steps: list[int]) -> None:
    examples = [*EXAMPLES, {"input": "the password is lost", "output": "login"}]
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(classify(client, examples=examples).json())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    fitted = len(steps)
    classify(client, examples=examples[1:])
    assert len(steps) == 2 * fitted


def test_a_failed_fit_fails_no_other_request(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ipt.TuningEngine.step

    def fail(engine: ipt.TuningEngine) -> Any:
        monkeypatch.setattr(ipt.TuningEngine, "step", step)
        raise MemoryError

    monkeypatch.setattr(ipt.TuningEngine, "step", fail)
    examples = [*EXAMPLES, {"input": "money", "output": "billing"}]
    assert error_of(classify(client, examples=examples))["code"] == "out_of_memory"
    assert classify(client, examples=examples).status_code == 200


def test_warnings_name_what_is_doubtful(client: httpx.Client) -> None:
    spelled = [{**EXAMPLES[0], "output": "Billing"}, *EXAMPLES[1:]]
    [warning] = classify(client, examples=spelled).json()["warnings"]
    assert "Billing" in warning
    long = [*EXAMPLES, {"input": "x" * 10_001, "output": "login"}]
    assert any("examples[8]" in warning for warning in classify(client, examples=long).json()["warnings"])


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"examples": []}, "invalid_value", "examples"),
        ({"inputs": []}, "invalid_value", "inputs"),
        ({"examples": EXAMPLES[:4]}, "invalid_dataset", "examples"),
        ({"inputs": ["hello", "x" * 10_001]}, "text_too_long", "inputs[1]"),
        ({"inputs": ["hello"] * 257}, "too_many_inputs", "inputs"),
        ({"examples": EXAMPLES * 126}, "too_many_examples", "examples"),
        ({"task_id": "tsk_1"}, "unknown_field", "task_id"),
    ],
)
def test_bad_input_is_named(client: httpx.Client, changes: dict[str, Any], code: str, param: str) -> None:
    response = classify(client, **changes)
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (422, code, param)


def test_the_scope_to_predict_suffices_and_is_needed(new_client: Callable[..., httpx.Client]) -> None:
    assert classify(new_client(scopes=["predict"])).status_code == 200
    assert error_of(classify(new_client(scopes=["adapt"])))["code"] == "scope_missing"


def test_the_command_prints_labels_and_json(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tickets.jsonl"
    file.write_text("\n".join(json.dumps(example) for example in EXAMPLES))
    with serve() as client:
        command = ["classify", str(file), "--url", str(client.base_url)]
        assert run([*command, *INPUTS]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["billing", "login"]
        assert run([*command, "--json", *INPUTS * 20]) == 0
        assert len(json.loads(capsys.readouterr().out)["predictions"]) == 40
