"""Promotes a version that has just succeeded if it is better than the one that answers, for tasks that ask for it."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.answering import ANSWERING_VERSION
from app.db.models import Adaptation, Dataset, HeldOutRow, Task, TaskVersion

if TYPE_CHECKING:  # as in `lifecycle`
    from ipt import AdaptedTask
    from ipt.tuning.held_out import HeldOutLogits
    from ipt.tuning.held_out_texts import HeldOutTexts

Metrics = dict[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a version answers for the texts that it was measured on."""

    labels: Sequence[str]
    scores: Mapping[str, NDArray[np.float64]]
    """By text: the probability of each label [C]."""

    @property
    def texts(self) -> Set[str]:
        """The measured texts."""
        return self.scores.keys()

    @classmethod
    def of(cls, labels: Sequence[str], dataset: Dataset, held_out: "HeldOutLogits") -> "_Measured":
        texts = [row["input"] for row in _rows(dataset)]
        logits = held_out.logits.astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = weights / weights.sum(axis=1, keepdims=True)
        return cls(labels, {texts[row]: scores[i] for i, row in enumerate(held_out.rows.tolist())})

    def judge(self, truth: Mapping[str, str]) -> tuple[int, float]:
        """Return how many texts are answered right, and the sum of the probabilities of the right labels."""
        right, probability = 0, 0.0
        for text, label in truth.items():
            scores = self.scores[text]
            right += self.labels[int(scores.argmax())] == label
            probability += float(scores[self.labels.index(label)]) if label in self.labels else 0.0
        return right, probability


@dataclass(frozen=True, slots=True)
class _MeasuredSets:
    """The same for a version with several labels at once."""

    scores: Mapping[str, Mapping[str, float]]
    """By text: the probability of each label."""
    answers: Mapping[str, frozenset[str]]
    """By text: the labels that are answered, with thresholds that were chosen on other texts."""

    @property
    def texts(self) -> Set[str]:
        """The measured texts."""
        return self.scores.keys()

    @classmethod
    def of(cls, labels: Sequence[str], dataset: Dataset, held_out: "HeldOutLogits") -> "_MeasuredSets":
        from ipt import Example, held_out_multilabel_report

        rows = _rows(dataset)
        report = held_out_multilabel_report(labels, [Example(**row) for row in rows], held_out)
        wrong = {each.row: each.predicted for each in report.wrong}
        scores = 1.0 / (1.0 + np.exp(-held_out.logits.astype(np.float64)))
        numbers = held_out.rows.tolist()
        return cls(
            {rows[row]["input"]: dict(zip(labels, scores[i].tolist(), strict=True)) for i, row in enumerate(numbers)},
            {rows[row]["input"]: frozenset(wrong.get(row, Example(**rows[row]).labels)) for row in numbers},
        )

    def judge(self, truth: Mapping[str, str]) -> tuple[int, float]:
        """Return how many texts have all labels right, and the sum of the probabilities of what is right."""
        from ipt import Example

        right, probability = 0, 0.0
        for text, output in truth.items():
            labels = set(Example(text, output).labels)
            right += self.answers[text] == labels
            sides = [score if label in labels else 1.0 - score for label, score in self.scores[text].items()]
            probability += sum(sides) / len(sides)
        return right, probability


@dataclass(frozen=True, slots=True)
class _MeasuredTexts:
    """The same for a version of a text-to-text task."""

    answers: Mapping[str, str]
    """By input: the text that is written."""

    @property
    def texts(self) -> Set[str]:
        """The inputs."""
        return self.answers.keys()

    @classmethod
    def of(cls, dataset: Dataset, held_out: "HeldOutTexts") -> "_MeasuredTexts":
        inputs = [row["input"] for row in _rows(dataset)]
        return cls({inputs[row]: text for row, text in zip(held_out.rows.tolist(), held_out.texts, strict=True)})

    def judge(self, truth: Mapping[str, str]) -> tuple[int, float]:
        """Return how many texts are exactly right, and the sum of their token F1."""
        from ipt.tuning.text_scores import exactly_matches, token_f1

        pairs = [(self.answers[text], output) for text, output in truth.items()]
        return sum(exactly_matches(*pair) for pair in pairs), sum(token_f1(*pair) for pair in pairs)


_AnyMeasured = _Measured | _MeasuredSets | _MeasuredTexts


def promote_if_better(session: Session, row: Adaptation, task: "AdaptedTask") -> tuple[Metrics, list[str]]:
    """Compare the stored version of an adaptation with the one that answers, and promote it if it is better.

    The better one is right more often on the texts that both were measured on without being fitted to them, by the
    outputs of the new dataset; if both are right as often, it gives the right labels a higher probability, or its texts
    a higher token F1.

    Returns:
        the figures of the comparison, for the adaptation's metrics; and a warning if nothing can be compared. Both are
        empty if there is no older version that answers.
    """
    locked = select(Task, ANSWERING_VERSION).where(Task.id == row.task_id).with_for_update(key_share=True, of=Task)
    stored_task, answering = session.execute(locked).one()
    if answering is None or answering >= row.task_version:
        return {}, []
    old, new = _earlier(session, row.task_id, answering), None
    if task.held_out is not None:
        dataset = session.get_one(Dataset, row.dataset_id)
        new = _measured(task.head.kind, task.head.labels, dataset, task.held_out)
    if old is None or new is None or type(old) is not type(new) or not (common := new.texts & old.texts):
        doubt = (
            f"version {row.task_version} was not promoted: no text was held out both for it and for version "
            f"{answering}, which answers. Compare them on examples of your own, and promote the better one"
        )
        return {}, [doubt]
    truth = {each["input"]: each["output"] for each in _rows(dataset) if each["input"] in common}
    (right, probability), (right_before, probability_before) = new.judge(truth), old.judge(truth)
    is_better = (right, probability) > (right_before, probability_before)
    if is_better:
        stored_task.promoted_version = row.task_version
        session.flush()
    figures: Metrics = {
        "compared_version": answering,
        "compared_rows": len(truth),
        "compared_right": right,
        "compared_right_before": right_before,
        "promoted": int(is_better),
    }
    return figures, []


def _measured(
    kind: str, labels: Sequence[str], dataset: Dataset, held_out: "HeldOutLogits | HeldOutTexts"
) -> _AnyMeasured:
    from ipt.tuning.held_out_texts import HeldOutTexts

    if isinstance(held_out, HeldOutTexts):
        return _MeasuredTexts.of(dataset, held_out)
    measured = _MeasuredSets if kind == "multilabel" else _Measured
    return measured.of(labels, dataset, held_out)


def _earlier(session: Session, task_id: str, version: int) -> _AnyMeasured | None:
    """Return what an earlier version answers; None for one of a release that did not keep it."""
    from ipt.errors import CheckpointError
    from ipt.tuning.held_out import HeldOutLogits
    from ipt.tuning.held_out_texts import HeldOutTexts

    query = (
        select(TaskVersion.kind, TaskVersion.labels, Dataset, HeldOutRow.logits)
        .join(Adaptation, Adaptation.id == TaskVersion.adaptation_id)
        .join(Dataset, Dataset.id == Adaptation.dataset_id)
        .join(HeldOutRow, (HeldOutRow.task_id == TaskVersion.task_id) & (HeldOutRow.version == TaskVersion.version))
        .where(TaskVersion.task_id == task_id, TaskVersion.version == version)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    kind, labels, dataset, data = found
    rows = len(_rows(dataset))
    try:
        if kind == "text2text":
            return _measured(kind, labels, dataset, HeldOutTexts.from_bytes(data, rows))
        return _measured(kind, labels, dataset, HeldOutLogits.from_bytes(data, rows, len(labels)))
    except CheckpointError:
        return None


def _rows(dataset: Dataset) -> list[dict[str, str]]:
    return [*dataset.examples, *(dataset.validation_examples or [])]
