"""The example script, which is written for OpenAI's API, and the same steps with the asynchronous client."""

import asyncio
import json
import re
import runpy
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from sqlalchemy import Engine

from app.settings import Settings
from tests.app.openai.test_training_data import chat
from tests.support.service import EXAMPLES, Serve
from worker.drain import Drainer
from worker.lazy_model import LazyModel

SCRIPT = Path(__file__).parents[3] / "examples" / "openai_migration.py"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def base_url(serve: Serve, engine: Engine, settings: Settings) -> Iterator[str]:
    """A service without API keys, and a worker beside it."""
    stop = threading.Event()
    drainer = Drainer(engine, LazyModel(settings), settings, "worker")
    thread = threading.Thread(target=drainer.poll, args=(stop,))
    with serve() as client:
        thread.start()
        try:
            yield f"{client.base_url}/openai/v1"
        finally:
            stop.set()
            thread.join(60)
    assert not thread.is_alive()


def test_a_script_for_openai_runs_unchanged(
    base_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    assert printed.startswith("Created fine-tuning job: ftjob-")
    assert re.search(r"^Step \d+/\d+: training loss=\d+\.\d+$", printed, re.MULTILINE)
    assert "\nThe job has successfully completed." in printed
    assert re.search(r"^step,train_loss,.*\n\d+,\d+\.\d+,,,", printed, re.MULTILINE)
    labels = {json.loads(line)["output"] for line in SCRIPT.with_name("support_tickets.jsonl").read_text().splitlines()}
    assert set(re.findall(r"-> (.*)$", printed, re.MULTILINE)) <= labels


def test_the_story_with_the_asynchronous_client(base_url: str) -> None:
    async def story() -> None:
        client = openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0)
        content = b"\n".join(chat(each["input"], each["output"]) for each in EXAMPLES)
        file = await client.files.create(file=("tickets.jsonl", content), purpose="fine-tune")
        job = await client.fine_tuning.jobs.create(
            training_file=file.id, model="gpt-3.5-turbo", hyperparameters={"n_epochs": 1}
        )
        while job.status not in ("succeeded", "failed", "cancelled"):
            await asyncio.sleep(0.1)
            job = await client.fine_tuning.jobs.retrieve(job.id)
        assert job.fine_tuned_model is not None
        stream = await client.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": "hello"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text in {"billing", "login"}
        events = [event.message async for event in client.fine_tuning.jobs.list_events(job.id, limit=1)]
        assert events[-1].startswith("Created fine-tuning job")
        assert (await client.models.delete(job.fine_tuned_model)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.fine_tuning.jobs.retrieve(job.id)
        await client.close()

    asyncio.run(story())
