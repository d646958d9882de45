"""`/v1/tasks/{task_id}/versions/{version}/report` and `/v1/tasks/{task_id}/evaluate`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Path, Request

from app.adaptations.dataset_checks import core_examples
from app.adaptations.dependencies import CreationThreadsDep
from app.adaptations.schemas import FileSources, LabelSet
from app.adaptations.upload import Form, FormRoute, documented_form, form_reader, naming_lines, read_body
from app.api_keys.admitting_route import AdmittingRoute
from app.api_keys.dependencies import AdaptingTenantDep, PredictingTenantDep
from app.db.dependencies import TransactionDep
from app.errors import ConflictError, InvalidError, NotFoundError, PermissionDeniedError, documented
from app.evaluations import service
from app.evaluations.schemas import (
    ComparisonView,
    EvaluationInput,
    EvaluationView,
    VersionReportView,
    near_duplicate_rows,
    suspect_rows,
    view_of,
)
from app.fairness.fair_pool import FairPool
from app.http.dependencies import SettingsDep
from app.http.disconnects import unless_gone
from app.http.fields import Id
from app.predictions.dependencies import predictions_of
from app.predictions.task_lookup import Question
from app.settings import Settings

router = APIRouter(
    prefix="/v1/tasks",
    tags=["evaluations"],
    responses=documented([PermissionDeniedError, NotFoundError, ConflictError]),
    route_class=AdmittingRoute,
)

Result = TypeVar("Result")


@router.get("/{task_id}/versions/{version}/report", summary="Report on a version")
def get_report(
    task_id: Id,
    version: Annotated[int, Path(ge=1, le=2**31 - 1)],
    transaction: TransactionDep,
    tenant: AdaptingTenantDep,
) -> VersionReportView:
    """Report what a version answers right and wrong, on the examples that measured it while it was tuned.

    None of its answers comes from a classifier that was fitted to the answered example.
    """
    with transaction() as session:
        report = service.version_report(session, tenant, task_id, version)
    return VersionReportView(
        task_id=task_id,
        task_version=version,
        source=report.source,
        report=view_of(report.report),
        suspects=suspect_rows(report.kind, report.dataset, report.doubtful),
        near_duplicates=near_duplicate_rows(report.kind, report.dataset, report.near_duplicates),
    )


@dataclass(frozen=True, slots=True)
class _Evaluator:
    """The parts of a request besides its body, which is JSON or a form."""

    task_id: str
    settings: Settings
    tenant: str
    threads: FairPool
    request: Request

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the threads for creations, in turns of tenants."""
        return await self.threads.run(self.tenant, self.request.state.body_bytes, work)

    async def evaluate(self, body: EvaluationInput, source: FileSources | None = None) -> EvaluationView:
        """Answer the examples with one version or two, and report the answers."""
        most = self.settings.max_examples
        if len(body.examples) > most:
            raise InvalidError(
                f"at most {most:,} examples, got {len(body.examples):,}: send a part of them",
                code="too_many_examples",
                param="examples",
            )
        predictions = predictions_of(self.request)
        model = await predictions.model_of(self.tenant, Question(self.task_id, body.version, "", "task_id"))
        examples = core_examples(body.examples, self.settings.max_text_chars, model.family)
        answer = partial(service.answer_test_set, predictions, self.tenant, self.task_id)
        answered = await answer(body.version, examples)
        lists = [number for number, each in enumerate(body.examples) if isinstance(each.output, LabelSet)]
        if lists and answered.kind != "multilabel":
            raise InvalidError(
                "this task has one label for each text: send one, not a list",
                code="invalid_value",
                param=f"examples[{lists[0]}].output",
            )
        other = None if body.compare_with is None else await answer(body.compare_with, examples)
        return await self.in_thread(partial(_view, self.task_id, answered, other, source))


def _view(
    task_id: str, answered: service.AnsweredTestSet, other: service.AnsweredTestSet | None, source: FileSources | None
) -> EvaluationView:
    report = answered.report()
    comparison = None
    if other is not None:
        other_report = other.report()
        comparison = ComparisonView.of(other.number, other_report, service.compare_reports(report, other_report))
    return EvaluationView(
        task_id=task_id,
        task_version=answered.number,
        report=view_of(report),
        comparison=comparison,
        source=source,
    )


async def _evaluator(
    task_id: Id,
    settings: SettingsDep,
    tenant: PredictingTenantDep,
    threads: CreationThreadsDep,
    request: Request,
) -> _Evaluator:
    return _Evaluator(task_id, settings, tenant, threads, request)


EvaluatorDep = Annotated[_Evaluator, Depends(_evaluator)]


async def evaluate_file(
    form: Annotated[Form, Depends(form_reader(EvaluationInput))], evaluator: EvaluatorDep
) -> EvaluationView:
    """Evaluate a task on a file; `evaluate_task` documents both."""
    upload = await evaluator.in_thread(partial(read_body, form, evaluator.settings, EvaluationInput))
    with naming_lines(upload.lines):
        return await unless_gone(evaluator.request, evaluator.evaluate(upload.body, upload.source))


# Registered before the route for JSON, which matches any body.
router.add_api_route(
    "/{task_id}/evaluate", evaluate_file, methods=["POST"], include_in_schema=False, route_class_override=FormRoute
)


@router.post(
    "/{task_id}/evaluate", summary="Evaluate a task on a test set", openapi_extra=documented_form(EvaluationInput)
)
async def evaluate_task(body: EvaluationInput, evaluator: EvaluatorDep) -> EvaluationView:
    """Report how a version answers a test set, sent as JSON or, in a form, as a file; nothing is stored.

    A form with labels in lists needs `kind` multilabel or a `label_separator`.

    With `compare_with`, a second version answers the same rows, and McNemar's test says whether one is better.
    """
    return await unless_gone(evaluator.request, evaluator.evaluate(body))
