"""Bounds on the bytes of an answer hold for any labels and scores, and are known before anything is computed."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, update

import ipt
from app.db.models import TaskVersion
from app.db.session import transaction
from app.errors import InvalidError
from app.predictions.answer_size import MAX_ANSWER_BYTES, check_answer_size, prediction_bytes
from app.predictions.schemas import PredictionView
from app.predictions.thresholds import Thresholds
from ipt.data.examples import MAX_LABEL_CHARS, MAX_LABELS
from tests.support.service import EXAMPLES, WorkOff, adaptation_body, error_of

SCORES = st.dictionaries(st.text(min_size=1), st.floats(0, 1), min_size=1, max_size=20)


@given(SCORES, st.none() | st.integers(1, 30), st.booleans(), st.none() | st.floats(0, 1), st.floats(0, 1))
def test_no_prediction_is_larger_than_its_bound(
    scores: dict[str, float], top_k: int | None, truncated: bool, in_scope: float | None, min_in_scope: float
) -> None:
    prediction = ipt.Prediction(label=max(scores, key=scores.__getitem__), scores=scores, in_scope=in_scope)
    thresholds = Thresholds(min_in_scope=min_in_scope)
    view = PredictionView.of(prediction, truncated=truncated, top_k=top_k, thresholds=thresholds)
    content = view.model_dump(exclude_unset=True)
    assert view.scores is not None
    assert len(view.scores) == min(len(scores), top_k or len(scores))
    assert min(view.scores.values()) >= max((scores[label] for label in scores.keys() - view.scores), default=0)
    assert next(iter(view.scores.values())) == max(scores.values()) or top_k is None
    bound = prediction_bytes(list(scores))[min(len(scores), top_k or len(scores))]
    assert len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()) < bound


def test_the_top_k_that_an_error_names_is_the_largest_that_fits() -> None:
    bounds = [prediction_bytes([f"{number}{'x' * 10_000}" for number in range(MAX_LABELS)])] * 32
    bounds += [prediction_bytes(["a", "b"]), prediction_bytes([])]
    with pytest.raises(InvalidError) as caught:
        check_answer_size(bounds, None)
    assert (caught.value.code, caught.value.param) == ("answer_too_large", "top_k")
    [fitting] = re.findall(r"set top_k to (\d+) or less", caught.value.message)
    check_answer_size(bounds, int(fitting))
    with pytest.raises(InvalidError):
        check_answer_size(bounds, int(fitting) + 1)
    with pytest.raises(InvalidError, match="send fewer texts, with top_k"):
        check_answer_size([prediction_bytes(["x" * 10_000, "y"])] * 1000, None)


def test_32_texts_fit_whatever_the_labels_are() -> None:
    check_answer_size([prediction_bytes(["\x01" * MAX_LABEL_CHARS] * MAX_LABELS)] * 32, None)


def test_an_answer_that_could_be_too_large_is_rejected_before_the_model_runs(
    client: httpx.Client, work_off: WorkOff, service_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    # Labels of this length are no longer accepted, but earlier versions have stored them.
    labels = [label * 15_000 for label in "xy"]
    with transaction(service_engine) as session:
        session.execute(update(TaskVersion).where(TaskVersion.task_id == task_id).values(labels=labels))
    predicted: list[int] = []
    predict: Callable[..., list[ipt.Prediction]] = ipt.Predictor.predict

    def count(predictor: ipt.Predictor, rows: Sequence[Any]) -> list[ipt.Prediction]:
        predicted.append(len(rows))
        return predict(predictor, rows)

    monkeypatch.setattr(ipt.Predictor, "predict", count)
    texts = [example["input"] for example in EXAMPLES] * 32
    of_one, of_many = {"inputs": texts}, {"requests": [{"task_id": task_id, "input": text} for text in texts]}
    for path, body in ((f"/v1/tasks/{task_id}/predict", of_one), ("/v1/predict", of_many)):
        predicted.clear()
        response = client.post(path, json=body)
        assert (response.status_code, error_of(response)["code"]) == (422, "answer_too_large")
        assert "set top_k to 1 or less" in error_of(response)["message"]
        assert predicted == []
        response = client.post(path, json=body | {"top_k": 1})
        assert response.status_code == 200
        assert {len(prediction["scores"]) for prediction in response.json()["predictions"]} == {1}
        assert 3_000_000 < len(response.content) < MAX_ANSWER_BYTES
        assert sum(predicted) == len(texts)
