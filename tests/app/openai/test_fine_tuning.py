"""Fine-tuning jobs and models, through OpenAI's client."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from unittest.mock import ANY

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import Engine

from app.db.models import Adaptation, AdaptationEvent, Dataset
from app.db.session import transaction
from app.openai.fine_tuning.hyperparameters import OpenAIHyperparameters
from app.openai.fine_tuning.result_files import render, result_file_ids
from app.openai.fine_tuning.schemas import FineTuning, JobEventView
from ipt.tuning.job import Hyperparameters
from tests.app.openai.test_training_data import chat, jsonl
from tests.support.service import EXAMPLES, WorkOff, adaptation_body

CHAT = b"\n".join(chat(example["input"], example["output"]) for example in EXAMPLES)
TEXTS = jsonl(*({"input": f"input {number}", "output": f"output {number}"} for number in range(20)))
MANY_LABELS = jsonl(*({"input": f"{copy} {label}", "output": f"l{label}"} for label in range(201) for copy in "ab"))
SAME = jsonl(*({"input": f"input {number}", "output": "same"} for number in range(4)))
NUMBERS = jsonl(*({"input": f"input {number}", "output": str(number)} for number in range(20)))
LONG = CHAT + b"\n" + chat("a", "x" * 300)
RARE = jsonl(*({"input": f"input {word}", "output": word} for word in ("a1", "a1", "b1", "b1", "rare", "odd", "new")))
QUICK = {"n_epochs": 1, "batch_size": 8}
DEFAULTS = Hyperparameters()
DOUBLE = 2 * DEFAULTS.learning_rate
WARNING = "examples[1] and examples[2]"
AUTO_EPOCHS = round(DEFAULTS.steps * DEFAULTS.batch_size / len(EXAMPLES))
NewJob = Callable[..., FineTuningJob]


@pytest.fixture
def new_job(openai_client: openai.OpenAI) -> NewJob:
    """Upload a file and create a job for it, as a script written for OpenAI does."""

    def new_job(content: bytes = CHAT, client: openai.OpenAI = openai_client, **options: Any) -> FineTuningJob:
        file = client.files.create(file=("tickets.jsonl", content), purpose="fine-tune")
        method = {"type": "supervised", "supervised": {"hyperparameters": QUICK}}
        options = {"model": "gpt-4o-mini-2024-07-18", "method": method} | options
        return client.fine_tuning.jobs.create(training_file=file.id, **options)

    return new_job


def own_row(engine: Engine, job: FineTuningJob) -> Adaptation:
    with transaction(engine) as session:
        return session.get_one(Adaptation, job.id.replace("ftjob-", "adp_"))


def test_a_job_becomes_a_model(openai_client: openai.OpenAI, new_job: NewJob, work_off: WorkOff) -> None:
    job = new_job(suffix="my tickets", seed=7, metadata={"team": "support"})
    assert (job.object, job.status, job.fine_tuned_model, job.result_files) == ("fine_tuning.job", "queued", None, [])
    assert (job.model, job.seed, job.metadata, job.error) == ("backbone", 7, {"team": "support"}, None)
    work_off()
    done = openai_client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.finished_at is not None
    assert done.fine_tuned_model is not None
    kind, backbone, organization, suffix, _ = done.fine_tuned_model.split(":")
    assert (kind, backbone, organization, suffix) == ("ft", "backbone", done.organization_id, "my-tickets")
    listed = [model.id for model in openai_client.models.list()]
    assert listed == ["backbone", done.fine_tuned_model]
    model = openai_client.models.retrieve(done.fine_tuned_model)
    assert (model.object, model.owned_by) == ("model", done.organization_id)
    [checkpoint] = openai_client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert openai_client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve(done.fine_tuned_model)


def test_the_result_files_have_the_metrics(openai_client: openai.OpenAI, new_job: NewJob, work_off: WorkOff) -> None:
    job = new_job()
    work_off()
    steps, metrics = openai_client.fine_tuning.jobs.retrieve(job.id).result_files
    rows = {row["step"]: row for row in csv.DictReader(io.StringIO(openai_client.files.content(steps).text))}
    own = json.loads(openai_client.files.content(metrics).text)
    assert {"baseline_score", "score", "loss", "best_step"} <= set(own)
    assert float(rows[str(own["best_step"])]["valid_loss"]) == own["loss"]
    assert float(rows[str(own["steps_run"])]["valid_mean_token_accuracy"]) == own["score"]
    shown = openai_client.files.retrieve(steps)
    assert (shown.filename, shown.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert shown.bytes == len(openai_client.files.content(steps).read())


@pytest.mark.parametrize(
    ("source", "validation_losses"), [("out_of_fold", ["0.9", "", "0.7", "0.6"]), ("none", ["", "", ""])]
)
def test_losses_of_validations_stand_at_their_steps(source: str, validation_losses: list[str]) -> None:
    steps = [(5, 0.5, 0, 0.9), (10, 0.4, 0, 0.9), (15, 0.3, 10, 0.7)]
    names = ("step", "loss", "validated_step", "validation_loss")
    events = [AdaptationEvent(type="progress", data=dict(zip(names, data, strict=True))) for data in steps]
    metrics = {"score_source": source, "loss": 0.6, "best_step": 15, "score": 0.8}
    job = Adaptation(step=15, metrics=metrics)
    [file_id, _] = result_file_ids("adp_" + "a" * 24)
    rows = list(csv.DictReader(io.StringIO(render(file_id, job, events).content.decode())))
    expected = ["0", "5", "10", "15"] if source != "none" else ["5", "10", "15"]
    assert [row["step"] for row in rows] == expected
    assert [row["train_loss"] for row in rows][-3:] == ["0.5", "0.4", "0.3"]
    assert [row["valid_loss"] for row in rows] == validation_losses


def test_an_epoch_of_text_to_text_has_the_batches_of_text_to_text() -> None:
    options = OpenAIHyperparameters(n_epochs=2)
    assert options.to_own(40, "text2text", seed=None).steps == 10
    assert options.to_own(40, "classification", seed=None).steps == 5


@pytest.mark.parametrize(
    ("asked", "own", "shown"),
    [
        ({}, asdict(DEFAULTS) | {"seed": ANY}, (AUTO_EPOCHS, DEFAULTS.batch_size, 1.0)),
        ({"n_epochs": 3, "batch_size": 12}, {"steps": 2, "batch_size": 12}, (3, 12, 1.0)),
        ({"n_epochs": 3, "batch_size": 1}, {"steps": 6, "batch_size": 4}, (3, 4, 1.0)),
        (
            {"learning_rate_multiplier": 2},
            {"learning_rate": 2 * DEFAULTS.learning_rate},
            (AUTO_EPOCHS, DEFAULTS.batch_size, 2),
        ),
        (
            {"n_epochs": "auto", "learning_rate_multiplier": 999.5},
            {"steps": DEFAULTS.steps, "learning_rate": 10},
            (AUTO_EPOCHS, DEFAULTS.batch_size, 10 / DEFAULTS.learning_rate),
        ),
    ],
)
def test_hyperparameters_are_mapped(
    new_job: NewJob, service_engine: Engine, asked: dict[str, Any], own: dict[str, Any], shown: tuple[float, ...]
) -> None:
    jobs = [
        new_job(method={"type": "supervised", "supervised": {"hyperparameters": asked}}),
        new_job(method=openai.omit, hyperparameters=asked),
    ]
    for job in jobs:
        stored = own_row(service_engine, job).hyperparameters
        assert {name: stored[name] for name in own} == own
        numbers = (
            job.hyperparameters.n_epochs,
            job.hyperparameters.batch_size,
            job.hyperparameters.learning_rate_multiplier,
        )
        assert numbers == pytest.approx(shown)
    assert jobs[0].seed != jobs[1].seed


def test_events_are_listed_newest_first_in_pages(
    openai_client: openai.OpenAI, new_job: NewJob, work_off: WorkOff
) -> None:
    job = new_job()
    work_off()
    events = list(openai_client.fine_tuning.jobs.list_events(job.id, limit=1))
    assert [event.message.partition(" job")[0] for event in reversed(events)][:2] == [
        "Created fine-tuning",
        "Fine-tuning",
    ]
    assert events[0].message.startswith("The job has successfully completed.")
    assert "system message" in events[-1].message
    assert len({event.id for event in events}) == len(events) == 3


@pytest.mark.parametrize(
    ("lines", "expected"), [([], "line 2 and line 3"), ([1, 1, 4], "line 1 and line 4"), (None, WARNING)]
)
def test_warnings_name_lines_of_the_training_file(lines: list[int] | None, expected: str) -> None:
    own = FineTuning(
        model="backbone",
        name="tickets",
        training_file="file-1",
        validation_file=None,
        examples=3,
        with_system=False,
        notes=[],
        lines=lines,
    )
    job = Adaptation(id="adp_1", fine_tuning=own.model_dump())
    event = AdaptationEvent(type="succeeded", seq=1, data={"warnings": [WARNING]}, created_at=datetime.now(UTC))
    assert JobEventView.of(job, event).message == f"The job has successfully completed. {expected}"


def test_jobs_are_listed_newest_first_without_native_adaptations(
    client: httpx.Client, openai_client: openai.OpenAI, new_job: NewJob
) -> None:
    native = client.post("/v1/adaptations", json=adaptation_body()).json()["id"]
    ids = [new_job().id for _ in range(3)]
    page = openai_client.fine_tuning.jobs.list(limit=2)
    assert page.has_more
    assert [job.id for job in page] == ids[::-1]
    with pytest.raises(openai.NotFoundError):
        openai_client.fine_tuning.jobs.retrieve(native.replace("adp_", "ftjob-"))
    assert client.get(f"/v1/adaptations/{ids[0].replace('ftjob-', 'adp_')}").json()["state"] == "queued"


def test_a_cancelled_job_has_no_model(openai_client: openai.OpenAI, new_job: NewJob, work_off: WorkOff) -> None:
    job = new_job()
    assert openai_client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert work_off() == []
    assert openai_client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    assert [model.id for model in openai_client.models.list()] == ["backbone"]
    assert list(openai_client.fine_tuning.jobs.checkpoints.list(job.id)) == []


def test_a_paused_job_waits_until_it_is_resumed(
    openai_client: openai.OpenAI, new_job: NewJob, work_off: WorkOff
) -> None:
    jobs = openai_client.fine_tuning.jobs
    job = new_job()
    paused = jobs.pause(job.id)
    assert paused.to_dict()["status"] == "paused"
    assert jobs.list_events(job.id).data[0].message == "Fine-tuning job paused"
    assert work_off() == []
    assert jobs.resume(job.id).status == "queued"
    assert len(work_off()) == 1
    for change in (jobs.pause, jobs.resume):
        with pytest.raises(openai.BadRequestError, match="already succeeded"):
            change(job.id)


def test_a_finished_job_cannot_be_cancelled(openai_client: openai.OpenAI, new_job: NewJob, work_off: WorkOff) -> None:
    job = new_job()
    work_off()
    with pytest.raises(openai.BadRequestError, match="already succeeded"):
        openai_client.fine_tuning.jobs.cancel(job.id)


def test_validation_files_are_measured_on(
    new_job: NewJob, openai_client: openai.OpenAI, service_engine: Engine
) -> None:
    file = openai_client.files.create(file=("held_back.jsonl", chat("card", "billing")), purpose="fine-tune")
    job = new_job(validation_file=file.id)
    assert job.validation_file == file.id
    with transaction(service_engine) as session:
        dataset = session.get_one(Dataset, own_row(service_engine, job).dataset_id)
    assert dataset.validation_examples == [{"input": "card", "output": "billing"}]


def test_a_native_task_is_a_model_as_soon_as_it_can_answer(
    client: httpx.Client, openai_client: openai.OpenAI, work_off: WorkOff
) -> None:
    task_id = client.post("/v1/adaptations", json=adaptation_body(name="Päckchen & more")).json()["task_id"]
    assert [model.id for model in openai_client.models.list()] == ["backbone"]
    work_off()
    [_, model] = openai_client.models.list()
    assert model.id.split(":")[3:] == ["P-ckchen-more", task_id.removeprefix("tsk_")]


@pytest.mark.parametrize(
    ("content", "options", "error", "param", "words"),
    [
        (CHAT, {"model": "my-model"}, openai.NotFoundError, "model", "backbone"),
        (CHAT, {"model": "ft:gpt-4o-mini:acme::7p4lURel"}, openai.NotFoundError, "model", "again"),
        (CHAT, {"validation_file": "file-unknown"}, openai.NotFoundError, "validation_file", "no file"),
        (CHAT + b"\n{}", {}, openai.BadRequestError, "training_file", "line 9: expected"),
        (chat("a", "b"), {}, openai.BadRequestError, "training_file", "line 1: .*single example"),
        (CHAT + b"\n" + chat("a", "rare"), {}, openai.BadRequestError, "training_file", "single example"),
        (TEXTS, {}, openai.BadRequestError, "training_file", "line 1, output: .*encoder"),
        (SAME, {}, openai.BadRequestError, "training_file", "line 1, output: all examples have the same output"),
        (
            NUMBERS,
            {},
            openai.BadRequestError,
            "training_file",
            "line 1, output: .*different number: .*high. The backbone is an encoder",
        ),
        (LONG, {}, openai.BadRequestError, "training_file", "line 9, output: .*300 characters.*at most 200.*encoder"),
        (RARE, {}, openai.BadRequestError, "training_file", "line 5, output: the output 'rare' has a single example"),
        (
            MANY_LABELS,
            {},
            openai.BadRequestError,
            "training_file",
            "line 401, output: .*201 labels, at most 200 .*writes text",
        ),
        (CHAT + b'\n{"messages": [], "prompt": "a"}', {}, openai.BadRequestError, "training_file", "line 9: has both"),
        (
            CHAT,
            {"method": {"type": "supervised", "supervised": {"hyperparameters": QUICK}}, "hyperparameters": {}},
            openai.BadRequestError,
            None,
            "two different sets of hyperparameters",
        ),
        (CHAT, {"method": {"type": "dpo"}}, openai.BadRequestError, "method.type", "supervised"),
        (CHAT, {"hyperparameters": {"n_epochs": 0}}, openai.BadRequestError, "hyperparameters.n_epochs", "at least 1"),
    ],
)
def test_a_wrong_job_is_rejected(
    new_job: NewJob, content: bytes, options: dict[str, Any], error: type[openai.APIStatusError], param: str, words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        new_job(content, **options)
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"


def test_another_tenants_jobs_and_models_do_not_exist(
    new_openai: Callable[..., openai.OpenAI], new_job: NewJob, work_off: WorkOff
) -> None:
    owner, other = new_openai(), new_openai()
    job = new_job(client=owner)
    work_off()
    done = owner.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model is not None
    requests: list[Callable[[], Any]] = [
        lambda: other.fine_tuning.jobs.retrieve(job.id),
        lambda: other.fine_tuning.jobs.cancel(job.id),
        lambda: other.fine_tuning.jobs.list_events(job.id),
        lambda: other.fine_tuning.jobs.checkpoints.list(job.id),
        lambda: other.fine_tuning.jobs.list(after=job.id),
        lambda: other.files.content(done.result_files[0]),
        lambda: other.models.retrieve(done.fine_tuned_model or ""),
        lambda: other.models.delete(done.fine_tuned_model or ""),
    ]
    for request in requests:
        with pytest.raises(openai.NotFoundError):
            request()
    assert list(other.fine_tuning.jobs.list()) == []
    assert owner.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
