"""Request and response bodies of evaluations."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import ipt
from app.adaptations.schemas import ExampleInput, FileSources
from app.db.models import Kind
from app.http.fields import Body, Listed, VersionNumber
from ipt.evaluation.doubtful_labels import DoubtfulLabel

MOST_WRONG = 256
"""Most wrong answers that a report lists."""
MOST_CHARS = 1000
"""Most characters of a text that a report shows."""


class EvaluationInput(Body):
    """A test set for a task: texts with the right labels or texts."""

    examples: Listed[ExampleInput] = Field(
        min_length=1,
        description="rows of labels that the task does not know are counted and not measured",
        examples=[[{"input": "I was charged twice this month", "output": "billing"}]],
    )
    kind: Kind | None = Field(
        default=None, description="multilabel reads lists of labels in a file; in JSON it need not be sent"
    )
    version: VersionNumber | None = Field(
        default=None, description="the version that is measured; by default the one that answers", examples=[2]
    )
    compare_with: VersionNumber | None = Field(
        default=None, description="another version, which answers the same rows", examples=[1]
    )


class CalibrationBinView(BaseModel):
    low: float
    high: float
    rows: int = Field(description="rows whose highest score is above `low` and at most `high`")
    mean_score: float | None
    accuracy: float | None


class LabelReportView(BaseModel):
    label: str
    precision: float | None = Field(description="null if the label is never answered")
    recall: float | None = Field(description="null if no measured row has the label")
    f1: float | None
    support: int = Field(description="measured rows of the label")
    predicted: int = Field(description="measured rows that are answered with the label")


class WrongAnswerView(BaseModel):
    row: int = Field(description="the number of the row, from 0; validation examples follow the examples")
    input: str = Field(description=f"the first {MOST_CHARS} characters of the text")
    expected: str
    predicted: str
    expected_score: float
    predicted_score: float


class WrongLabelsView(BaseModel):
    row: int = Field(description="the number of the row, from 0; validation examples follow the examples")
    input: str = Field(description=f"the first {MOST_CHARS} characters of the text")
    expected: list[str]
    predicted: list[str]
    scores: dict[str, float] = Field(description="of the labels that it lacks or has too many")


class WrongTextView(BaseModel):
    row: int = Field(description="the number of the row, from 0")
    input: str = Field(description=f"the first {MOST_CHARS} characters of the text")
    expected: str = Field(description=f"the first {MOST_CHARS} characters of the text")
    predicted: str = Field(description=f"the first {MOST_CHARS} characters of the text")
    confidence: float | None


class ReportView(BaseModel):
    kind: Literal["classification"] = "classification"
    rows: int = Field(description="rows that were measured")
    accuracy: float
    accuracy_low: float = Field(description="lower end of the 95 % interval")
    accuracy_high: float
    chance: float = Field(description="the accuracy of always answering with the most frequent label")
    balanced_accuracy: float = Field(description="the mean of the labels' recalls")
    macro_f1: float = Field(description="the mean F1 of the labels that occur in the rows or the answers")
    weighted_f1: float = Field(description="the mean F1 of the labels, weighted by support")
    log_loss: float = Field(description="the mean negative logarithm of the right label's score")
    calibration_error: float = Field(description="expected calibration error: by how much the scores are off")
    calibration: list[CalibrationBinView]
    labels: list[LabelReportView]
    confusion: list[list[int]] = Field(description="rows by their label, columns by the answer, in order of `labels`")
    wrong_count: int = Field(description="rows that were answered wrongly")
    wrong: list[WrongAnswerView] = Field(description=f"at most {MOST_WRONG}, those with the highest scores first")
    unknown_labels: dict[str, int] = Field(
        description="labels that the task does not know, with the number of their rows"
    )

    @classmethod
    def of(cls, report: ipt.Report) -> "ReportView":
        low, high = report.summary.interval
        return cls(
            rows=report.rows,
            accuracy=report.summary.accuracy,
            accuracy_low=low,
            accuracy_high=high,
            chance=report.summary.chance,
            balanced_accuracy=report.summary.balanced_accuracy,
            macro_f1=report.macro_f1,
            weighted_f1=report.weighted_f1,
            log_loss=report.log_loss,
            calibration_error=report.calibration_error,
            calibration=[CalibrationBinView.model_validate(each, from_attributes=True) for each in report.calibration],
            labels=[LabelReportView.model_validate(each, from_attributes=True) for each in report.labels],
            confusion=[list(row) for row in report.confusion],
            wrong_count=len(report.wrong),
            wrong=[_wrong_answer(each) for each in report.wrong[:MOST_WRONG]],
            unknown_labels=dict(report.unknown_labels),
        )


class MultiLabelReportView(BaseModel):
    kind: Literal["multilabel"] = "multilabel"
    rows: int = Field(description="rows that were measured")
    micro_f1: float = Field(description="of all pairs of a row and a label together")
    macro_f1: float = Field(description="the mean F1 of the labels that occur in the rows or the answers")
    samples_f1: float = Field(description="the mean F1 of the rows; 1 for a row that has and gets no label")
    subset_accuracy: float = Field(description="share of the rows whose labels are all right")
    subset_accuracy_low: float = Field(description="lower end of the 95 % interval")
    subset_accuracy_high: float
    chance: float = Field(description="the micro F1 of the best answer that is the same for every row")
    log_loss: float = Field(description="the mean negative logarithm of the score of what is right, over all labels")
    calibration_error: float = Field(description="expected calibration error: by how much the scores are off")
    calibration: list[CalibrationBinView] = Field(description="of all pairs of a row and a label")
    labels: list[LabelReportView]
    wrong_count: int = Field(description="rows that were answered wrongly")
    wrong: list[WrongLabelsView] = Field(description=f"at most {MOST_WRONG}, the clearest first")
    unknown_labels: dict[str, int] = Field(
        description="labels that the task does not know, with the number of their rows"
    )

    @classmethod
    def of(cls, report: ipt.MultiLabelReport) -> "MultiLabelReportView":
        low, high = report.summary.interval
        return cls(
            rows=report.rows,
            micro_f1=report.summary.micro_f1,
            macro_f1=report.summary.macro_f1,
            samples_f1=report.summary.samples_f1,
            subset_accuracy=report.summary.subset_accuracy,
            subset_accuracy_low=low,
            subset_accuracy_high=high,
            chance=report.summary.chance,
            log_loss=report.log_loss,
            calibration_error=report.calibration_error,
            calibration=[CalibrationBinView.model_validate(each, from_attributes=True) for each in report.calibration],
            labels=[LabelReportView.model_validate(each, from_attributes=True) for each in report.labels],
            wrong_count=len(report.wrong),
            wrong=[
                WrongLabelsView(
                    row=each.row,
                    input=each.input[:MOST_CHARS],
                    expected=list(each.expected),
                    predicted=list(each.predicted),
                    scores=dict(each.scores),
                )
                for each in report.wrong[:MOST_WRONG]
            ],
            unknown_labels=dict(report.unknown_labels),
        )


class TextReportView(BaseModel):
    kind: Literal["text2text"] = "text2text"
    rows: int
    exact_match: float = Field(description="share of the texts that are right word by word")
    exact_match_low: float = Field(description="lower end of the 95 % interval")
    exact_match_high: float
    token_f1: float = Field(description="the mean F1 of the words in common with the expected text, as in SQuAD")
    rouge_l: float = Field(description="the mean F1 of the longest common subsequence of words")
    wrong_count: int
    wrong: list[WrongTextView] = Field(description=f"at most {MOST_WRONG}, the most confident first")

    @classmethod
    def of(cls, report: ipt.TextReport) -> "TextReportView":
        low, high = report.interval
        return cls(
            rows=report.rows,
            exact_match=report.exact_match,
            exact_match_low=low,
            exact_match_high=high,
            token_f1=report.token_f1,
            rouge_l=report.rouge_l,
            wrong_count=len(report.wrong),
            wrong=[
                WrongTextView(
                    row=each.row,
                    input=each.input[:MOST_CHARS],
                    expected=each.expected[:MOST_CHARS],
                    predicted=each.predicted[:MOST_CHARS],
                    confidence=each.confidence,
                )
                for each in report.wrong[:MOST_WRONG]
            ],
        )


AnyReportView = Annotated[ReportView | MultiLabelReportView | TextReportView, Field(discriminator="kind")]


def view_of(
    report: ipt.Report | ipt.MultiLabelReport | ipt.TextReport,
) -> ReportView | MultiLabelReportView | TextReportView:
    """Return the view of a report of any kind of task."""
    if isinstance(report, ipt.MultiLabelReport):
        return MultiLabelReportView.of(report)
    return TextReportView.of(report) if isinstance(report, ipt.TextReport) else ReportView.of(report)


def _wrong_answer(answer: Any) -> WrongAnswerView:
    view = WrongAnswerView.model_validate(answer, from_attributes=True)
    return view.model_copy(update={"input": view.input[:MOST_CHARS]})


class LabeledRowView(BaseModel):
    row: int = Field(description="the number of the row, from 0; validation examples follow the examples")
    input: str = Field(description=f"the first {MOST_CHARS} characters of the text")
    output: str | list[str]

    @classmethod
    def of(cls, kind: ipt.TaskKind, dataset: Sequence[ipt.Example], row: int) -> "LabeledRowView":
        example = dataset[row]
        output = list(example.labels) if kind == "multilabel" else example.output
        return cls(row=row, input=example.input[:MOST_CHARS], output=output)


class SuspectRowView(LabeledRowView):
    likely_label: str = Field(description="the label that fits better, or that is lacking or too many")
    belongs: bool = Field(description="whether the row should have that label")
    likely_probability: float


def suspect_rows(
    kind: ipt.TaskKind, dataset: Sequence[ipt.Example], doubtful: Sequence[DoubtfulLabel]
) -> list[SuspectRowView]:
    """Return the views of examples whose labels are probably wrong."""
    return [
        SuspectRowView(
            **LabeledRowView.of(kind, dataset, each.row).model_dump(),
            likely_label=each.likely_label,
            belongs=each.belongs,
            likely_probability=each.likely_probability,
        )
        for each in doubtful[:MOST_WRONG]
    ]


def near_duplicate_rows(
    kind: ipt.TaskKind, dataset: Sequence[ipt.Example], pairs: Sequence[tuple[int, int]]
) -> list[list[LabeledRowView]]:
    """Return the views of pairs of examples that hardly differ and have different labels."""
    return [[LabeledRowView.of(kind, dataset, row) for row in pair] for pair in pairs[:MOST_WRONG]]


class VersionReportView(BaseModel):
    object: Literal["report"] = "report"
    task_id: str
    task_version: int
    source: Literal["out_of_fold", "held_back"] = Field(
        description="`out_of_fold`: tuning held back each example once; `held_back`: validation examples, or a part "
        "of the examples"
    )
    report: AnyReportView
    suspects: list[SuspectRowView] = Field(
        description=f"at most {MOST_WRONG} measured examples that another label fits better, the clearest first"
    )
    near_duplicates: list[list[LabeledRowView]] = Field(
        description=f"at most {MOST_WRONG} pairs of examples that hardly differ and have different labels"
    )


class ComparisonView(BaseModel):
    version: int
    report: AnyReportView
    rows: int = Field(description="rows that both versions measure")
    only_this_right: int = Field(description="rows that only the evaluated version answers right")
    only_other_right: int = Field(description="rows that only the other version answers right")
    p_value: float = Field(
        description="of McNemar's exact test: how likely a difference of this size is if both are equally good"
    )

    @classmethod
    def of(
        cls,
        version: int,
        report: ipt.Report | ipt.MultiLabelReport | ipt.TextReport,
        comparison: ipt.Comparison,
    ) -> "ComparisonView":
        return cls(
            version=version,
            report=view_of(report),
            rows=comparison.rows,
            only_this_right=comparison.only_first_right,
            only_other_right=comparison.only_second_right,
            p_value=comparison.p_value,
        )


class EvaluationView(BaseModel):
    object: Literal["evaluation"] = "evaluation"
    task_id: str
    task_version: int = Field(description="the version that answered")
    report: AnyReportView
    comparison: ComparisonView | None = Field(description="null without `compare_with`")
    source: FileSources | None = Field(description="how a file was read; null for JSON")
