"""Names of jobs and models."""

import pytest

from app.openai import names

ID = "0123456789abcdefghijklmn"


def test_ids_of_both_apis_name_the_same_object() -> None:
    assert names.adaptation_of_job(names.job_id(f"adp_{ID}")) == f"adp_{ID}"
    model = names.fine_tuned_model("MiniLM", "acme:eu", "my tickets", f"tsk_{ID}")
    assert model == f"ft:MiniLM:acme-eu:my-tickets:{ID}"
    assert names.task_of_model(model) == f"tsk_{ID}"


@pytest.mark.parametrize("model", ["gpt-4o", f"ft:a:b:c:{ID[:-1]}", f"ft:a:b:{ID}", f"tsk_{ID}", f"ft:a:b:c:{ID}\n"])
def test_any_other_name_is_no_task(model: str) -> None:
    assert names.task_of_model(model) is None


@pytest.mark.parametrize(
    ("backbone_id", "name"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("/models/my model/", "my-model"),
        ("C:\\models\\gpt2", "gpt2"),
    ],
)
def test_a_base_model_has_the_name_of_its_backbone(backbone_id: str, name: str) -> None:
    assert names.base_model(backbone_id) == name


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("MiniLM", True),
        ("gpt-4o-mini-2024-07-18", True),
        ("gpt-3.5-turbo", True),
        ("o4-mini", True),
        ("davinci-002", True),
        ("gpt2", False),
        ("my-model", False),
        ("ft:gpt-4o-mini:acme::7p4lURel", False),
    ],
)
def test_the_base_models_of_openai_stand_for_the_backbone(model: str, expected: bool) -> None:
    assert names.names_backbone(model, "MiniLM") is expected
