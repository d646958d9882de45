"""Suggest texts to label: predict and embed them in pieces, and choose uncertain and different ones."""

from collections.abc import Sequence

import numpy as np
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

import ipt
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.suggestions.schemas import SuggestInput, SuggestionView, SuggestView
from ipt.prediction.suggestion import most_doubtful, uncertainties

TEXTS_AT_ONCE = 128
"""Texts of one request that wait for the model together, so that other requests get turns between them."""


async def suggest(predictions: Predictions, tenant_id: str, task_id: str, body: SuggestInput) -> SuggestView:
    """Return which texts to label next; raises as `Predictions.ask` and `Predictions.embed` do."""
    version = body.version
    scores: list[NDArray[np.float64]] = []
    embeddings: list[NDArray[np.float32]] = []
    labels: Sequence[str] = ()
    for start in range(0, len(body.inputs), TEXTS_AT_ONCE):
        texts = body.inputs[start : start + TEXTS_AT_ONCE]
        questions = [Question(task_id, version, text, "task_id") for text in texts]
        answered = await predictions.ask(tenant_id, questions, counted=False)
        version = answered.keys[0][1]  # of the following texts too
        embedded = await predictions.embed(tenant_id, Question(task_id, version, "", "task_id"), texts)
        of_texts = [prediction.scores or {} for prediction in answered.answer.predictions]
        labels = list(of_texts[0])
        scores += [np.array([each[label] for label in labels]) for each in of_texts]
        embeddings += embedded.embeddings
    assert version is not None
    table = np.stack(scores)
    named = table.argmax(axis=1)
    if answered.answer.predictions[0].labels is not None:
        named, table = most_doubtful(table)
    chosen = await run_in_threadpool(ipt.suggest, table, np.stack(embeddings), body.count)
    uncertainty = uncertainties(table)
    return SuggestView(
        task_id=task_id,
        task_version=version,
        suggestions=[
            SuggestionView(index=number, label=labels[int(named[number])], uncertainty=float(uncertainty[number]))
            for number in chosen
        ],
    )
