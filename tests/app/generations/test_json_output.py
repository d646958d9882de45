"""JSON output over REST, on the command line and through OpenAI's client, of a tiny chat model with random weights."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

import ipt
from app.cli.root import run
from app.db.session import make_engine
from app.settings import Settings
from tests.support.service import adaptation_body, error_of, running, work_off_queue
from tests.support.text_service import PAIRS
from tests.support.tiny_chat import build_tiny_chat, save_chat_subspace

ORDER = {
    "type": "object",
    "properties": {"product": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["product", "count"],
}


@dataclass
class ChatService:
    client: httpx.Client
    task_id: str

    def generate(self, schema: dict[str, Any], **body: Any) -> httpx.Response:
        body = {"inputs": ["two phones", "a red bag"], "format": {"json_schema": schema}} | body
        return self.client.post(f"/v1/tasks/{self.task_id}/generate", json=body)


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[ChatService]:
    backbone_dir = build_tiny_chat(tmp_path / "backbone")
    backbone = ipt.load_backbone(str(backbone_dir), device="cpu")
    subspace = save_chat_subspace(tmp_path / "subspace", backbone)
    settings = Settings(
        backbone=str(backbone_dir), subspace=str(tmp_path / "subspace"), device="cpu", data_dir=tmp_path
    )
    engine = make_engine(database_url)
    with running(settings, database_url) as client:
        body = adaptation_body(examples=PAIRS, kind="text2text", hyperparameters={"steps": 0})
        task_id = client.post("/v1/adaptations", json=body).json()["task_id"]
        assert len(work_off_queue(engine, backbone, subspace)) == 1
        yield ChatService(client, task_id)
    engine.dispose()


def test_every_text_is_json_of_the_schema(
    service: ChatService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [each["text"] for each in service.generate(ORDER, max_new_tokens=20).json()["generations"]]
    sampled = service.generate(ORDER, max_new_tokens=20, temperature=2.0, seed=3).json()["generations"]
    with service.client.stream(
        "POST",
        f"/v1/tasks/{service.task_id}/generate",
        json={"input": "two phones", "format": {"json_schema": ORDER}, "max_new_tokens": 20, "stream": True},
    ) as response:
        data = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    streamed = "".join(each["text"] for each in data if "text" in each)
    assert streamed == texts[0]
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    options = ["--json-schema", str(tmp_path / "order.json"), "--max-new-tokens", "20"]
    assert run(["generate", service.task_id, "two phones", *options, "--url", str(service.client.base_url)]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{texts[0]}\n"
    client = openai.OpenAI(base_url=f"{service.client.base_url}/openai/v1", api_key="none", max_retries=0)
    schema = {"name": "order", "schema": ORDER, "strict": True}
    answer = client.chat.completions.create(
        model=service.task_id.replace("tsk_", "ft:a:b:c:"),
        messages=[{"role": "user", "content": "two phones"}],
        response_format={"type": "json_schema", "json_schema": schema},
        max_tokens=20,
    )
    content = answer.choices[0].message.content
    assert content == texts[0]
    for text in [*texts, *(each["text"] for each in sampled)]:
        jsonschema.validate(json.loads(text), ORDER)


def test_a_text_below_the_least_score_is_refused(service: ChatService) -> None:
    path, inputs = f"/v1/tasks/{service.task_id}/predict", ["two phones"]
    [plain] = service.client.post(path, json={"inputs": inputs}).json()["predictions"]
    confidence = plain["confidence"]
    assert 0 < confidence < 1
    for least, refused in ((confidence / 2, False), (min(1.0, 2 * confidence), True)):
        [answer] = service.client.post(path, json={"inputs": inputs, "min_score": least}).json()["predictions"]
        assert answer == (plain | {"text": None, "reason": "low_score"} if refused else plain)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "is empty"),
        ({"$ref": "#"}, "is recursive"),
        ({"enum": ["x" * 1_000_000]}, "of at most 32,768"),
        ({"type": "array", "contains": {"type": "string"}}, "Unimplemented keys"),
    ],
)
def test_an_unusable_schema_is_an_error_before_any_work(
    service: ChatService, schema: dict[str, Any], message: str
) -> None:
    response = service.generate(schema)
    assert (response.status_code, error_of(response)["param"]) == (422, "format")
    assert message in error_of(response)["message"]


def test_a_schema_file_that_is_not_json_is_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "schema.json").write_text("[]")
    assert run(["generate", "orders", "text", "--json-schema", str(tmp_path / "schema.json")]) == 1
    assert capsys.readouterr().err.endswith("must hold a JSON object, the schema\n")
