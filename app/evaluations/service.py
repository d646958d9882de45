"""Report how a version answers: the examples that it was measured on, or a test set."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

import ipt
from app.adaptations.dataset_checks import with_labels
from app.errors import ConflictError, InvalidError
from app.evaluations import repository
from app.evaluations.repository import ScoreSource
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.tasks import service as tasks
from ipt.errors import DatasetError
from ipt.evaluation.doubtful_labels import DoubtfulLabel, doubtful_labels
from ipt.tuning.held_out import HeldOutLogits
from ipt.tuning.held_out_texts import HeldOutTexts

AnyReport = ipt.Report | ipt.MultiLabelReport | ipt.TextReport
ROWS_AT_ONCE = 32
"""Rows of a test set that are asked together, as the requests of other callers are: theirs come in between."""


@dataclass(frozen=True, slots=True)
class VersionReport:
    """What a version's measured examples say about it, and about themselves."""

    report: AnyReport
    source: ScoreSource
    kind: ipt.TaskKind
    dataset: Sequence[ipt.Example]
    """The examples, then the validation examples."""
    doubtful: Sequence[DoubtfulLabel]
    near_duplicates: Sequence[tuple[int, int]]
    """Numbers of examples in the dataset."""


def version_report(session: Session, tenant_id: str, task_id: str, number: int) -> VersionReport:
    """Return the report of the examples that a version was measured on.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
        ConflictError: the version keeps nothing that it was measured on.
    """
    version = tasks.version(session, tenant_id, task_id, number)
    held_out = repository.held_out(session, version)
    if held_out is None:
        raise ConflictError(
            "this version keeps no measured examples: an earlier release tuned it, or it has too few texts to hold any "
            "back. POST /v1/tasks/{task_id}/evaluate measures it on a test set",
            code="report_not_available",
            param="version",
        )
    dataset = [ipt.Example(**row) for row in held_out.rows]
    if version.kind == "text2text":
        texts = HeldOutTexts.from_bytes(held_out.data, len(dataset))
        return VersionReport(ipt.held_out_text_report(dataset, texts), held_out.source, version.kind, dataset, (), ())
    logits = HeldOutLogits.from_bytes(held_out.data, len(dataset), len(version.labels))
    report = ipt.held_out_multilabel_report if version.kind == "multilabel" else ipt.held_out_report
    return VersionReport(
        report(version.labels, dataset, logits),
        held_out.source,
        version.kind,
        dataset,
        doubtful_labels(version.labels, dataset, logits, version.kind),
        [(first, second) for first, second in logits.near_duplicates.tolist()],
    )


@dataclass(frozen=True, slots=True)
class AnsweredTestSet:
    """A test set and the predictions of one version for its rows."""

    number: int
    kind: ipt.TaskKind
    examples: Sequence[ipt.Example]
    predictions: Sequence[ipt.Prediction]

    def report(self) -> AnyReport:
        """Report the answers.

        Raises:
            InvalidError: the task knows none of the labels.
        """
        try:
            if self.kind == "text2text":
                return ipt.text_report(self.examples, self.predictions)
            report = ipt.multilabel_report if self.kind == "multilabel" else ipt.report
            return report(self.examples, self.predictions)
        except DatasetError as error:
            raise InvalidError(error.message, code="no_known_label", param=error.param) from error


async def answer_test_set(
    predictions: Predictions, tenant_id: str, task_id: str, version: int | None, examples: Sequence[ipt.Example]
) -> AnsweredTestSet:
    """Answer the examples with one version of a task, by default the one that answers without a canary.

    Raises:
        NotFoundError, ConflictError, BusyError, UnavailableError: as `Predictions.ask` does.
    """
    answers: list[ipt.Prediction] = []
    number = version
    for start in range(0, len(examples), ROWS_AT_ONCE):
        questions = [
            Question(task_id, number, example.input, "task_id") for example in examples[start : start + ROWS_AT_ONCE]
        ]
        answer = await predictions.ask(tenant_id, questions, counted=False)
        number = answer.keys[0][1]
        answers += answer.answer.predictions
    assert number is not None  # a test set has an example
    kind = _kind_of(answers[0])
    if kind == "multilabel":
        examples = [with_labels(example) for example in examples]
    return AnsweredTestSet(number, kind, examples, answers)


def compare_reports(first: AnyReport, second: AnyReport) -> ipt.Comparison:
    """Compare two versions on the rows that both can be measured on."""
    right_of_second = dict(zip(second.measured, second.right.tolist(), strict=True))
    shared = [(right, row) for right, row in zip(first.right.tolist(), first.measured, strict=True)
              if row in right_of_second]  # fmt: skip
    return ipt.compare([right for right, _ in shared], [right_of_second[row] for _, row in shared])


def _kind_of(prediction: ipt.Prediction) -> ipt.TaskKind:
    if prediction.text is not None:
        return "text2text"
    return "classification" if prediction.labels is None else "multilabel"
