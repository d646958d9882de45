"""A batch of OpenAI's API survives the death of the service that answers it."""

import json
from pathlib import Path

import openai
import pytest
from sqlalchemy import Engine, func, select, update

from app.cli.service_process import running_service
from app.db.file_models import Batch
from app.db.session import transaction
from app.settings import Settings
from tests.support.jobs import settings  # noqa: F401, a fixture
from tests.support.processes import environment, until

KEY = "k" * 16
REQUESTS = 400


@pytest.mark.timeout(400)
def test_a_batch_whose_service_is_killed_is_completed_by_the_next_one(
    settings: Settings,  # noqa: F811
    engine: Engine,
    tmp_path: Path,
) -> None:
    def answered() -> int:
        with transaction(engine) as session:
            return session.scalar(select(Batch.completed)) or 0

    body = {"model": "text-embedding-3-small", "input": "hello"}
    lines = [
        {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
        for number in range(REQUESTS)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    variables = environment(settings) | {"IPT_API_KEY": KEY}
    with running_service(tmp_path / "first.log", variables) as service:
        client = openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=KEY)
        file = client.files.create(file=("requests.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        until(answered)
        service.process.kill()
        service.process.wait()
    assert 0 < answered() < REQUESTS
    with transaction(engine) as session:
        session.execute(update(Batch).values(lease_until=func.now()))  # as if the minute of the lease were over
    with running_service(tmp_path / "second.log", variables) as service:
        client = openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=KEY)
        until(lambda: client.batches.retrieve(batch.id).status == "completed")
        batch = client.batches.retrieve(batch.id)
        assert batch.error_file_id is None
        assert batch.output_file_id is not None
        answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [line["custom_id"] for line in lines]
    assert {answer["response"]["status_code"] for answer in answers} == {200}
