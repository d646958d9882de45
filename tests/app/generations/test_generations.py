"""`POST /v1/tasks/{id}/generate`: texts whole and as they come, what is refused, and who is spared whose trouble."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client import REGISTRY
from safetensors.torch import load_file

import ipt
from app.cli.root import run
from app.db.session import make_engine
from app.settings import Settings
from tests.support.service import Serve, WorkOff, adaptation_body, error_of, running, work_off_queue
from tests.support.tiny import build_tiny_text

PAIRS = [
    {"input": f"{verb} {thing}", "output": f"{thing} please"}
    for verb in ("play", "send")
    for thing in ("music", "mail", "the bill", "my song")
]


@dataclass
class TextService:
    """A service on a tiny GPT-2, with two tuned tasks."""

    client: httpx.Client
    tasks: list[str]
    subspace_dir: Path
    writers: list[Any]

    @property
    def engine(self) -> ipt.GenerationEngine:
        """Of its writer, which has begun with the first text."""
        [writer] = self.writers
        engine: ipt.GenerationEngine = writer._engine
        return engine

    def generate(self, number: int = 0, **body: Any) -> httpx.Response:
        return self.client.post(f"/v1/tasks/{self.tasks[number]}/generate", json={"input": "hello world"} | body)

    def stream(self, number: int = 0, **body: Any) -> Any:
        path = f"/v1/tasks/{self.tasks[number]}/generate"
        return self.client.stream("POST", path, json={"input": "hello world", "stream": True} | body)


@pytest.fixture(scope="module")
def service(make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextService]:
    folder = tmp_path_factory.mktemp("text-service")
    backbone_dir, subspace_dir = build_tiny_text(folder, "gpt2")
    url = make_database()
    settings = Settings(
        backbone=str(backbone_dir),
        subspace=str(subspace_dir),
        device="cpu",
        data_dir=folder,
        database_url=url,
        api_key="k" * 16,
        generate_batch_rows=4,
        generate_queue_rows=8,
        max_new_tokens=24,
    )
    writers: list[Any] = []
    with pytest.MonkeyPatch.context() as patched, running(settings, None) as client:
        from app.generations import service as module

        plain = module.Writer

        def kept(*given: Any, **named: Any) -> Any:
            writers.append(plain(*given, **named))
            return writers[-1]

        patched.setattr(module, "Writer", kept)
        client.headers["Authorization"] = f"Bearer {'k' * 16}"
        bodies = [adaptation_body(name=name, examples=PAIRS, kind="text2text") for name in ("first", "second")]
        tasks = [client.post("/v1/adaptations", json=body).json()["task_id"] for body in bodies]
        backbone = ipt.load_backbone(str(backbone_dir), device="cpu")
        engine = make_engine(url)
        assert len(work_off_queue(engine, backbone, ipt.load_subspace(subspace_dir, backbone))) == 2
        engine.dispose()
        yield TextService(client, tasks, subspace_dir, writers)


def messages(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    event = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_text_is_the_one_that_predict_gives(service: TextService) -> None:
    before = counted("ipt_generation_tokens_total")
    response = service.generate()
    assert response.status_code == 200, response.text
    answer = response.json()
    predicted = service.client.post(f"/v1/tasks/{service.tasks[0]}/predict", json={"inputs": ["hello world"]}).json()
    assert (answer["task_id"], answer["task_version"]) == (service.tasks[0], 1)
    [generation] = answer["generations"]
    assert generation["text"]
    assert predicted["predictions"][0]["text"].startswith(generation["text"])  # which may write more tokens
    assert generation["finish_reason"] in ("stop", "length")
    assert answer["usage"]["input_tokens"] == 2
    assert answer["usage"]["truncated_inputs"] == 0
    assert counted("ipt_generation_tokens_total") - before == answer["usage"]["generated_tokens"]


def test_several_inputs_are_answered_in_their_order(service: TextService) -> None:
    inputs = ["hello world", "play music", "i love my phone", "the cat sat", "me", "you"]
    answer = service.client.post(f"/v1/tasks/{service.tasks[1]}/generate", json={"inputs": inputs}).json()
    alone = [service.generate(1, input=text).json() for text in inputs]
    assert answer["generations"] == [one["generations"][0] for one in alone]
    assert answer["usage"]["generated_tokens"] == sum(one["usage"]["generated_tokens"] for one in alone)


def test_a_streams_pieces_are_the_text(service: TextService) -> None:
    inputs = {"input": None, "inputs": ["hello world", "the cat sat on the mat"], "max_new_tokens": 12}
    whole = service.generate(**inputs).json()
    with service.stream(**inputs) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        received = list(messages(response))
    texts = ["", ""]
    for name, data in received:
        if name == "delta":
            texts[data["index"]] += data["text"]
    assert texts == [one["text"] for one in whole["generations"]]
    reasons = {data["index"]: data["finish_reason"] for name, data in received if name == "finished"}
    assert [reasons[0], reasons[1]] == [one["finish_reason"] for one in whole["generations"]]
    assert received[-1] == ("done", {key: whole[key] for key in ("task_id", "task_version", "usage")})
    assert sum(name == "delta" for name, _ in received) > 2


def test_a_drawn_text_is_that_of_its_seed(service: TextService) -> None:
    drawn = {"temperature": 20, "top_k": 100, "top_p": 0.99, "max_new_tokens": 8}
    texts = [service.generate(seed=seed, **drawn).json()["generations"][0]["text"] for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


def test_beams_and_stop_strings(service: TextService) -> None:
    [best] = service.generate(num_beams=3, max_new_tokens=10).json()["generations"]
    text = best["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    [stopped] = service.generate(num_beams=3, max_new_tokens=10, stop=[stop]).json()["generations"]
    assert stopped == {"text": text[: text.index(stop)].strip(), "finish_reason": "stop"}


def test_an_input_too_long_is_cut_and_counted(service: TextService) -> None:
    before = counted("ipt_generation_truncated_inputs_total")
    answer = service.generate(input="the cat sat " * 500, max_new_tokens=10).json()
    assert answer["usage"]["truncated_inputs"] == 1
    assert answer["usage"]["input_tokens"] == 64 - 4 - 10
    assert counted("ipt_generation_truncated_inputs_total") - before == 1


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
def test_what_makes_no_sense_is_refused(service: TextService, body: dict[str, Any], param: str | None) -> None:
    response = service.generate(**body)
    assert (response.status_code, error_of(response)["param"]) == (422, param)
    with service.stream(**body) as streamed:
        assert streamed.status_code == 422


def test_a_version_that_is_not_there_is_404(service: TextService) -> None:
    assert error_of(service.generate(version=2))["code"] == "version_not_found"


def test_an_encoder_says_that_it_writes_no_text(client: httpx.Client, work_off: WorkOff) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body()).json()["task_id"]
    work_off()
    response = client.post(f"/v1/tasks/{task_id}/generate", json={"input": "hello"})
    assert (response.status_code, error_of(response)["code"]) == (409, "backbone_writes_no_text")
    assert "is an encoder, which classifies but does not write text" in error_of(response)["message"]


class Gate:
    """Lets the engine make so many steps, and no further until it is told."""

    def __init__(self, engine: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._steps = threading.Semaphore(0)
        step = engine.step

        def gated() -> Any:
            self._steps.acquire()
            return step()

        monkeypatch.setattr(engine, "step", gated)

    def open(self, steps: int = 10_000) -> None:
        self._steps.release(steps)


@pytest.fixture
def gate(service: TextService, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    service.generate(max_new_tokens=1)
    gate = Gate(service.engine, monkeypatch)
    yield gate
    gate.open()
    until(lambda: service.engine.idle)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_goes_away_takes_its_row_along(service: TextService, gate: Gate) -> None:
    before = counted("ipt_generations_total", reason="cancelled")
    with service.stream(max_new_tokens=24) as leaving:
        gate.open(2)
        assert next(messages(leaving))[0] == "delta"
        until(lambda: service.engine.running_rows == 1)
    [row], writer = service.engine._batches[0].rows, service.writers[0]
    until(lambda: bool(writer._cancelled) or row.cancelled)
    gate.open()
    until(lambda: counted("ipt_generations_total", reason="cancelled") == before + 1)
    assert service.engine.running_rows == 0


def test_a_stream_that_waits_is_kept_alive(service: TextService, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.generations.service.KEEP_ALIVE_SECONDS", 0.0)
    with service.stream(max_new_tokens=2) as response:
        lines = response.iter_lines()
        assert next(lines) == ": ping"
        gate.open()
        assert list(lines)[-3] == "event: done"


def test_a_caller_of_a_whole_text_who_goes_away_does_too(service: TextService, gate: Gate) -> None:
    before = counted("ipt_generations_total", reason="cancelled")
    with pytest.raises(httpx.ReadTimeout):
        service.client.post(
            f"/v1/tasks/{service.tasks[0]}/generate",
            json={"inputs": ["hello", "me"]},
            timeout=httpx.Timeout(5, read=0.3),
        )
    until(lambda: len(service.writers[0]._cancelled) == 2)
    gate.open()
    until(lambda: counted("ipt_generations_total", reason="cancelled") == before + 2)


def test_a_full_queue_turns_callers_away(service: TextService, gate: Gate) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(service.generate(input=None, inputs=["hello"] * 5))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: service.writers[0]._open_rows == 10)
    refused = service.generate(num_beams=3)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "generation_queue_full")
    assert int(refused.headers["retry-after"]) > 0
    with service.stream(num_beams=3) as streamed:
        assert streamed.status_code == 429
    gate.open()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert service.generate(num_beams=3).status_code == 200


def test_a_request_that_there_is_never_room_for_is_refused(service: TextService) -> None:
    refused = service.generate(input=None, inputs=["hello"] * 5, num_beams=3)
    assert refused.status_code == 422
    assert error_of(refused)["param"] == "num_beams"
    assert "15 rows, and at most 12 of all callers" in error_of(refused)["message"]
    assert service.generate(input=None, inputs=["hello"] * 4, num_beams=3, max_new_tokens=2).status_code == 200


@pytest.mark.parametrize(("texts", "beams"), [(10, 1), (3, 3)])
def test_a_caller_with_many_texts_lets_others_in_between(
    service: TextService, gate: Gate, texts: int, beams: int
) -> None:
    many = {"input": None, "inputs": ["hello world"] * texts, "max_new_tokens": 20, "num_beams": beams}
    thread = threading.Thread(target=lambda: service.generate(**many))
    thread.start()
    until(lambda: service.writers[0]._open_rows == texts * beams)
    answered = threading.Event()
    late = threading.Thread(target=lambda: service.generate(max_new_tokens=5).is_success and answered.set())
    late.start()
    until(lambda: service.writers[0]._open_rows == texts * beams + 1)
    # Four rows are written at a time, so the late one begins at step 21; after all others it would at step 41 or 61.
    gate.open(30)
    assert answered.wait(30)
    gate.open()
    thread.join()
    late.join()


def test_what_breaks_the_engine_fails_its_texts_and_no_later_ones(
    service: TextService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("secret")

    service.generate()
    monkeypatch.setattr(service.engine, "_recover", broken)
    assert error_of(service.generate())["code"] == "generation_failed"
    monkeypatch.undo()
    assert service.generate().status_code == 200


def test_out_of_memory_halves_the_batch_and_the_service_stays_up(
    service: TextService, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"input": None, "inputs": ["hello world", "play music", "me", "the cat sat"], "max_new_tokens": 8}
    wanted = service.generate(**inputs).json()
    model: Any = service.engine.backbone.model
    forward, memory = model.forward, 1

    def limited(*given: Any, **named: Any) -> Any:
        if len(named["input_ids"]) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*given, **named)

    monkeypatch.setattr(model, "forward", limited)
    assert service.generate(**inputs).json() == wanted
    assert counted("ipt_generation_row_limit") == service.engine.row_limit == 1
    memory = 0
    response = service.generate()
    assert (response.status_code, error_of(response)["code"]) == (503, "out_of_memory")
    with service.stream() as streamed:
        *_, (name, data) = messages(streamed)
    assert (name, data["error"]["code"]) == ("error", "out_of_memory")
    memory = 100
    assert service.generate(**inputs).json() == wanted


def test_a_failure_nobody_foresaw_is_one_requests_own(service: TextService, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("secret")

    service.generate()
    monkeypatch.setattr(service.engine.backbone, "prefill_after_prompts", failing)
    response = service.generate()
    assert (response.status_code, error_of(response)["code"]) == (500, "generation_failed")
    assert "secret" not in response.text
    monkeypatch.undo()
    assert service.generate().status_code == 200


@pytest.fixture
def command(service: TextService, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What to add to a command for it to reach the service."""
    monkeypatch.setenv("IPT_API_KEY", "k" * 16)
    return ["--url", str(service.client.base_url)]


def test_the_command_shows_a_text_as_it_comes(
    service: TextService, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [wanted] = service.generate(max_new_tokens=6, stop=["never", "ever"]).json()["generations"]
    options = ["--max-new-tokens", "6", "--stop", "never", "--stop", "ever", *command]
    assert run(["generate", service.tasks[0], "hello world", *options]) == 0
    assert capsys.readouterr().out == f"{wanted['text']}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("hello world\n"))
    assert run(["generate", "first", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["generations"] == [wanted]
    assert run(["generate", service.tasks[0], "hello", "--max-new-tokens", "25", *command]) == 1
    assert capsys.readouterr().err == "error: max_new_tokens: at most 24 on this service, got 25\n"


def test_the_command_says_in_one_line_what_goes_wrong_in_mid_text(
    service: TextService, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError

    service.generate()
    monkeypatch.setattr(service.engine.backbone, "prefill_after_prompts", failing)
    assert run(["generate", service.tasks[0], "hello", *command]) == 1
    assert capsys.readouterr().err.startswith("error: the model failed on this input")


def test_the_command_exports_a_tasks_prompt(
    service: TextService, command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "first.safetensors"
    folder = str(service.subspace_dir)
    assert run(["export", "first", str(file), "--subspace", folder, *command]) == 0
    assert "prompt_embeds [4, 32]" in capsys.readouterr().out
    vector = service.client.get(f"/v1/tasks/{service.tasks[0]}/vector").json()["vector"]
    wanted = ipt.load_subspace(folder).decoder(torch.tensor(vector)[None])[0]
    torch.testing.assert_close(load_file(file)["prompt_embeds"], wanted)
    assert run(["export", "first", str(file), *command]) == 1
    assert "name the task's own folder with --subspace" in capsys.readouterr().err
    assert run(["export", "first", str(tmp_path), "--subspace", folder, *command]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_the_metrics_name_generations(service: TextService) -> None:
    service.generate()
    computed, kept = (counted("ipt_generation_prompts_total", source=source) for source in ("computed", "kept"))
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
    assert counted("ipt_generation_prompts_total", source="computed") == computed
    assert counted("ipt_generation_prompts_total", source="kept") > kept


def test_a_service_that_ends_ends_its_texts_first(serve: Serve, tmp_path: Path, engine: Any) -> None:
    backbone_dir, subspace_dir = build_tiny_text(tmp_path, "gpt2")
    backbone = ipt.load_backbone(str(backbone_dir), device="cpu")
    with pytest.MonkeyPatch.context() as patched:
        with serve(backbone=str(backbone_dir), subspace=str(subspace_dir)) as client:
            body = adaptation_body(examples=PAIRS, kind="text2text")
            task_id = client.post("/v1/adaptations", json=body).json()["task_id"]
            work_off_queue(engine, backbone, ipt.load_subspace(subspace_dir, backbone))
            step = ipt.GenerationEngine.step

            def slow(self: ipt.GenerationEngine) -> Any:
                time.sleep(1)
                return step(self)

            patched.setattr(ipt.GenerationEngine, "step", slow)
            path = f"{str(client.base_url).rstrip('/')}/v1/tasks/{task_id}/generate"
            received: list[tuple[str, Any]] = []
            opened = threading.Event()

            def listen() -> None:
                with httpx.stream("POST", path, json={"input": "hello", "stream": True}, timeout=30) as response:
                    for message in messages(response):
                        received.append(message)
                        opened.set()

            thread = threading.Thread(target=listen)
            thread.start()
            assert opened.wait(30)
        thread.join(30)
    assert (received[-1][0], received[-1][1]["error"]["code"]) == ("error", "stopping")
