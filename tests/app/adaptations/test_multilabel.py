"""Tasks with several labels at once, through the whole API."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.cli.root import run
from tests.support.cli import Captured
from tests.support.service import WorkOff, error_of

TEXTS = {
    "billing": ["i was charged twice", "refund my money please", "the invoice is wrong", "card was charged"],
    "login": ["password does not work", "i can not login", "account is lost", "login screen is broken"],
}
EXAMPLES: list[dict[str, Any]] = [
    *({"input": text, "output": [label]} for label, texts in TEXTS.items() for text in texts),
    *({"input": f"{a} and {b}", "output": ["login", "billing"]} for a, b in zip(*TEXTS.values(), strict=True)),
    {"input": "thank you", "output": []},
    {"input": "hello there", "output": []},
]
STEPS = {"steps": 2}


@pytest.fixture
def adapt(client: httpx.Client, work_off: WorkOff) -> Callable[..., dict[str, Any]]:
    """Tune a task on `EXAMPLES`, with some fields changed, and return the adaptation."""

    def adapt(**changes: Any) -> dict[str, Any]:
        body = {"name": "tickets", "examples": EXAMPLES, "hyperparameters": STEPS} | changes
        if "task_id" in changes:
            del body["name"]
        created = client.post("/v1/adaptations", json=body).raise_for_status().json()
        work_off()
        tuned: dict[str, Any] = client.get(f"/v1/adaptations/{created['id']}").json()
        assert tuned["state"] == "succeeded"
        return tuned

    return adapt


def test_a_task_answers_labels_and_its_report_has_the_scores_of_its_adaptation(
    client: httpx.Client, adapt: Callable[..., dict[str, Any]]
) -> None:
    tuned = adapt()
    assert tuned["kind"] == "multilabel"
    assert any("2 examples have no label" in warning for warning in tuned["warnings"])
    task = f"/v1/tasks/{tuned['task_id']}"
    texts = [row["input"] for row in EXAMPLES]
    answered = client.post(f"{task}/predict", json={"inputs": texts}).raise_for_status().json()["predictions"]
    for prediction in answered:
        assert "label" not in prediction
        assert set(prediction["labels"]) <= prediction["scores"].keys() == set(TEXTS)
    none = client.post(f"{task}/predict", json={"inputs": texts[:1], "min_score": 1.0, "top_k": 1}).json()
    [prediction] = none["predictions"]
    assert (prediction["labels"], len(prediction["scores"])) == ([], 1)
    assert prediction.get("reason") == ("low_score" if answered[0]["labels"] else None)
    version = client.get(f"{task}/versions/1/report").raise_for_status().json()
    assert version["report"]["kind"] == "multilabel"
    for name, metric in (("micro_f1", "score"), ("macro_f1", "macro_f1"), ("subset_accuracy", "subset_accuracy")):
        assert version["report"][name] == pytest.approx(tuned["metrics"][metric])
    usage = client.get(f"{task}/usage")
    assert usage.status_code == 200
    suggested = client.post(f"{task}/suggest", json={"inputs": texts[:4], "count": 2}).raise_for_status().json()
    assert {each["label"] for each in suggested["suggestions"]} <= set(TEXTS)
    assert client.get(f"{task}/examples/suspects").raise_for_status().json()["has_more"] is False


def test_test_sets_in_json_and_files_are_measured_alike_and_two_versions_compared(
    client: httpx.Client, adapt: Callable[..., dict[str, Any]]
) -> None:
    tuned = adapt()
    adapt(task_id=tuned["task_id"])
    path = f"/v1/tasks/{tuned['task_id']}/evaluate"
    rows = [*EXAMPLES, {"input": "so cold", "output": ["weather"]}, {"input": "card lost", "output": "Billing"}]
    answer = client.post(path, json={"examples": rows, "compare_with": 1}).raise_for_status().json()
    report = answer["report"]
    assert (report["rows"], report["unknown_labels"]) == (len(rows) - 1, {"weather": 1})
    assert {each["label"]: each["support"] for each in report["labels"]} == {"billing": 9, "login": 8}
    assert answer["comparison"]["rows"] == report["rows"]
    lines = "\n".join(json.dumps(row) for row in rows)
    table = "text,labels\n" + "".join(
        f"{row['input']},{'|'.join([row['output']] if isinstance(row['output'], str) else row['output']) or '[]'}\n"
        for row in rows
    )
    for name, content, fields in (
        ("t.jsonl", lines, {"kind": "multilabel"}),
        ("t.csv", table, {"label_separator": "|"}),
    ):
        in_file = client.post(path, files={"file": (name, content)}, data=fields).raise_for_status().json()
        assert in_file["report"] == report
    unknown = client.post(path, json={"examples": rows[-2:-1]})
    assert (unknown.status_code, error_of(unknown)["code"]) == (422, "no_known_label")


def test_examples_are_changed_label_by_label_and_extended(
    client: httpx.Client, adapt: Callable[..., dict[str, Any]]
) -> None:
    task_id = adapt()["task_id"]
    path = f"/v1/tasks/{task_id}/examples"
    page = client.get(path).raise_for_status().json()
    assert page["labels"] == {"billing": 8, "login": 8}
    assert page["data"][8]["output"] == ["billing", "login"]
    assert len(client.get(path, params={"label": "billing"}).json()["data"]) == 8
    change = {
        "version": 1,
        "relabel": [{"input": "thank you", "output": ["login"]}],
        "rename_labels": [{"label": "billing", "to": "money"}],
        "add": [{"input": "pay by card", "output": "money"}],
        "hyperparameters": STEPS,
    }
    client.patch(path, json=change).raise_for_status()
    page = client.get(path).json()
    assert page["labels"] == {"money": 9, "login": 9}
    exported = client.get(f"{path}/file", params={"format": "csv"}).text
    check = client.post("/v1/datasets/check", files={"file": ("e.csv", exported)}, data={"kind": "multilabel"})
    assert check.raise_for_status().json()["labels"] == page["labels"]
    extended = client.post("/v1/adaptations", json={"task_id": task_id, "extend": True, "examples": EXAMPLES[:1]})
    assert error_of(extended)["code"] == "version_conflict", "version 2 is still tuned"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"kind": "classification"}, "invalid_dataset", "kind"),
        ({"examples": [*EXAMPLES, {"input": "x", "output": ["a", ""]}]}, "invalid_value", "examples[14].output"),
        ({"examples": [*EXAMPLES, {"input": "x", "output": ["a", 3]}]}, "invalid_value", "examples[14].output"),
        ({"examples": [*EXAMPLES, {"input": "x", "output": ["rare"]}]}, "invalid_dataset", "examples[14].output"),
        ({"examples": [{"input": "x", "output": []}] * 3}, "invalid_dataset", "examples"),
        ({"examples": [*EXAMPLES, {"input": "x", "output": None}]}, "not_text", "examples[14].output"),
    ],
)
def test_bad_lists_of_labels_are_refused(client: httpx.Client, fields: dict[str, Any], code: str, param: str) -> None:
    response = client.post("/v1/adaptations", json={"name": "tickets", "examples": EXAMPLES} | fields)
    assert (response.status_code, error_of(response)["code"], error_of(response)["param"]) == (422, code, param)


def test_a_file_with_lists_says_which_kind_reads_it(client: httpx.Client) -> None:
    lines = "\n".join(json.dumps(row) for row in EXAMPLES)
    refused = client.post("/v1/datasets/check", files={"file": ("t.jsonl", lines)})
    assert "only tasks of the kind multilabel" in error_of(refused)["message"]
    blank = client.post("/v1/datasets/check", files={"file": ("t.jsonl", lines)}, data={"label_separator": " "})
    assert error_of(blank)["param"] == "label_separator"


def test_the_commands_read_print_and_report_several_labels(
    client: httpx.Client,
    adapt: Callable[..., dict[str, Any]],
    tmp_path: Any,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("IPT_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    url = ("--url", str(client.base_url))
    table = tmp_path / "tickets.csv"
    table.write_text(
        "text,labels\n" + "".join(f"{row['input']},{';'.join(row['output']) or '[]'}\n" for row in EXAMPLES)
    )
    assert run(["adapt", str(table), "--label-separator", ";", "--dry-run", *url]) == 0
    assert "billing (8)" in capsys.readouterr().out
    task_id = adapt()["task_id"]
    assert run(["evaluate", task_id, str(table), "--label-separator", ";", *url]) == 0
    printed = capsys.readouterr().out
    assert "micro F1" in printed
    assert "samples F1" in printed
    assert run(["tasks", "report", task_id, *url]) == 0
    assert "all labels right" in capsys.readouterr().out
    assert run(["predict", task_id, "i was charged twice", *url]) == 0
    assert "i was charged twice" in capsys.readouterr().out
    assert run(["tasks", "examples", task_id, "--label", "login", *url]) == 0
    assert "billing, login" in capsys.readouterr().out
