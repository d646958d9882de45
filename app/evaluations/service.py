"""Report how a version answers: the examples that it was measured on, or a test set."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy.orm import Session

import ipt
from app.db.models import TaskVersion
from app.errors import ConflictError, InvalidError
from app.evaluations import repository
from app.evaluations.repository import ScoreSource
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.tasks import service as tasks
from ipt.errors import DatasetError
from ipt.evaluation.classification_report import report_scores
from ipt.tuning.held_out import HeldOutLogits

ROWS_AT_ONCE = 32
"""Rows of a test set that are asked together, as the requests of other callers are: theirs come in between."""


def version_report(session: Session, tenant_id: str, task_id: str, number: int) -> tuple[ipt.Report, ScoreSource]:
    """Return the report of the examples that a version was measured on, and how they were chosen.

    Raises:
        NotFoundError: the tenant has no such task, or the task no such version.
        ConflictError: the version is no classification, or keeps nothing that it was measured on.
    """
    version = tasks.version(session, tenant_id, task_id, number)
    _check_kind(version)
    held_out = repository.held_out(session, version)
    if held_out is None:
        raise ConflictError(
            "this version keeps no measured examples: an earlier release tuned it, or its labels have too few texts to "
            "hold any back. POST /v1/tasks/{task_id}/evaluate measures it on a test set",
            code="report_not_available",
            param="version",
        )
    dataset = [ipt.Example(**row) for row in held_out.rows]
    logits = HeldOutLogits.from_bytes(held_out.logits, len(dataset), len(version.labels))
    return ipt.held_out_report(version.labels, dataset, logits), held_out.source


class AnsweredTestSet:
    """A test set and the scores of one version for its rows."""

    def __init__(self, number: int, labels: Sequence[str], examples: Sequence[ipt.Example]) -> None:
        self.number = number
        self.labels = labels
        self._examples = examples
        self._scores = np.empty((len(examples), len(labels)))

    def record(self, start: int, predictions: Sequence[ipt.Prediction]) -> None:
        """Keep the scores of the rows from `start` on."""
        for row, prediction in enumerate(predictions, start):
            assert prediction.scores is not None
            self._scores[row] = [prediction.scores[label] for label in self.labels]

    def report(self) -> ipt.Report:
        """Report the answers.

        Raises:
            InvalidError: the task knows none of the labels.
        """
        try:
            return report_scores(self.labels, self._examples, range(len(self._examples)), self._scores)
        except DatasetError as error:
            raise InvalidError(error.message, code="no_known_label", param=error.param) from error


async def answer_test_set(
    predictions: Predictions, tenant_id: str, task_id: str, version: int | None, examples: Sequence[ipt.Example]
) -> AnsweredTestSet:
    """Answer the examples with one version of a task, by default the one that answers without a canary.

    Raises:
        NotFoundError, ConflictError, BusyError, UnavailableError: as `Predictions.ask` does.
        ConflictError: the task is no classification.
    """
    answered: AnsweredTestSet | None = None
    for start in range(0, len(examples), ROWS_AT_ONCE):
        number = version if answered is None else answered.number
        questions = [
            Question(task_id, number, example.input, "task_id") for example in examples[start : start + ROWS_AT_ONCE]
        ]
        answer = await predictions.ask(tenant_id, questions, counted=False)
        if answered is None:
            scores = answer.answer.predictions[0].scores
            if scores is None:
                raise _not_a_classification()
            answered = AnsweredTestSet(answer.keys[0][1], list(scores), examples)
        answered.record(start, answer.answer.predictions)
    assert answered is not None  # a test set has an example
    return answered


def compare_reports(first: ipt.Report, second: ipt.Report) -> ipt.Comparison:
    """Compare two versions on the rows whose labels both know."""
    right_of_second = dict(zip(second.measured, second.right.tolist(), strict=True))
    shared = [(right, row) for right, row in zip(first.right.tolist(), first.measured, strict=True)
              if row in right_of_second]  # fmt: skip
    return ipt.compare([right for right, _ in shared], [right_of_second[row] for _, row in shared])


def _check_kind(version: TaskVersion) -> None:
    if version.kind != "classification":
        raise _not_a_classification()


def _not_a_classification() -> ConflictError:
    return ConflictError(
        "reports are of classification tasks, and this task writes texts: its adaptation's metrics say how similar "
        "they are to the expected ones",
        code="report_not_available",
        param="task_id",
    )
