"""Prometheus metrics of predictions."""

from collections.abc import Sequence

from prometheus_client import Counter, Histogram

import ipt

_PREDICTIONS = Counter("ipt_predictions_total", "Texts answered.", ["kind"])
_CLASSIFICATION = _PREDICTIONS.labels("classification")
_MULTILABEL = _PREDICTIONS.labels("multilabel")
_TEXT2TEXT = _PREDICTIONS.labels("text2text")
_EMBEDDING = _PREDICTIONS.labels("embedding")
_TRUNCATED = Counter("ipt_prediction_truncated_inputs_total", "Texts that were too long to be read completely.")
_BATCH_ROWS = Histogram(
    "ipt_prediction_batch_rows",
    "Texts answered in one batch.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)


def count_truncated(texts: int) -> None:
    """Count texts that were too long."""
    _TRUNCATED.inc(texts)


def count_batch(batch: Sequence[ipt.Prediction]) -> None:
    """Count one batch."""
    generated = sum(prediction.text is not None for prediction in batch)
    embedded = sum(prediction.embedding is not None for prediction in batch)
    _TEXT2TEXT.inc(generated)
    _EMBEDDING.inc(embedded)
    multilabel = sum(prediction.labels is not None for prediction in batch)
    _MULTILABEL.inc(multilabel)
    _CLASSIFICATION.inc(len(batch) - generated - embedded - multilabel)
    _BATCH_ROWS.observe(len(batch))
