"""Intrinsic prompt tuning (arXiv 2110.07867): one frozen language model, one subspace, 250 floats for each task.

>>> import ipt
>>> backbone = ipt.load_backbone()
>>> subspace = ipt.load_subspace("default", backbone)
>>> task = ipt.adapt(backbone, subspace, [ipt.Example("The parcel never came", "shipping"), ...])
>>> ipt.Predictor(backbone, subspace).predict([(task.head, "Where is my order?")])
"""

from ipt.adapt import adapt
from ipt.backbones.interface import Backbone, BackboneIdentity, Family
from ipt.backbones.loading import load_backbone
from ipt.data.examples import Example, TaskKind
from ipt.data.files.reader import read_dataset_file
from ipt.data.preparation import PreparedDataset, check_examples, prepare
from ipt.errors import (
    BackboneError,
    CheckpointError,
    DatasetError,
    IptError,
    SubspaceError,
    SubspaceMismatchError,
)
from ipt.evaluation.classification_report import Report, held_out_report, report
from ipt.evaluation.comparison import Comparison, compare
from ipt.evaluation.multilabel_report import MultiLabelReport, held_out_multilabel_report, multilabel_report
from ipt.evaluation.text_report import TextReport, held_out_text_report, text_report
from ipt.generation.batch import GenerationRequest
from ipt.generation.engine import GenerationEngine
from ipt.generation.events import GenerationEvent, TextDelta, TextFinished
from ipt.generation.parameters import GenerationParameters
from ipt.prediction.predictor import Prediction, Predictor
from ipt.prediction.suggestion import suggest
from ipt.prediction.task_head import BoundTask, TaskHead
from ipt.subspace.store import load_subspace, save_subspace
from ipt.subspace.subspace import Subspace
from ipt.tuning.engine import TuningEngine
from ipt.tuning.job import AdaptedTask, Hyperparameters, Progress, TuningJob

__all__ = [
    "AdaptedTask",
    "Backbone",
    "BackboneError",
    "BackboneIdentity",
    "BoundTask",
    "CheckpointError",
    "Comparison",
    "DatasetError",
    "Example",
    "Family",
    "GenerationEngine",
    "GenerationEvent",
    "GenerationParameters",
    "GenerationRequest",
    "Hyperparameters",
    "IptError",
    "MultiLabelReport",
    "Prediction",
    "Predictor",
    "PreparedDataset",
    "Progress",
    "Report",
    "Subspace",
    "SubspaceError",
    "SubspaceMismatchError",
    "TaskHead",
    "TaskKind",
    "TextDelta",
    "TextFinished",
    "TextReport",
    "TuningEngine",
    "TuningJob",
    "adapt",
    "check_examples",
    "compare",
    "held_out_multilabel_report",
    "held_out_report",
    "held_out_text_report",
    "load_backbone",
    "load_subspace",
    "multilabel_report",
    "prepare",
    "read_dataset_file",
    "report",
    "save_subspace",
    "suggest",
    "text_report",
]
