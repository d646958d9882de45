"""Suggest texts to label: predict and embed them in pieces, and choose uncertain and different ones."""

from collections.abc import Sequence

import numpy as np
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

import ipt
from app.api_keys.service import Caller
from app.db.dependencies import OpenTransaction
from app.errors import ConflictError, PermissionDeniedError
from app.examples import service as examples
from app.examples.rows import rows_of
from app.kept_texts import repository
from app.predictions.service import Predictions
from app.predictions.task_lookup import Question
from app.suggestions.schemas import SuggestInput, SuggestionView, SuggestView
from ipt.prediction.suggestion import most_doubtful, uncertainties

TEXTS_AT_ONCE = 128
"""Texts of one request that wait for the model together, so that other requests get turns between them."""


def kept_texts(transaction: OpenTransaction, caller: Caller, task_id: str) -> list[str]:
    """Return the kept texts of a task that are no examples of its newest version, newest first.

    Raises:
        PermissionDeniedError: the key may not read them.
        NotFoundError: the tenant has no such task, or the task no version.
        ConflictError: the tenant keeps no texts, or none is kept.
    """
    if not caller.may("adapt"):
        raise PermissionDeniedError(
            "kept texts need an API key with the scope 'adapt': use one that has it, or send `inputs`",
            code="scope_missing",
        )
    with transaction() as session:
        adaptation, dataset = examples.of_version(session, caller.tenant_id, task_id, None)
        known = {row.input for row in rows_of(dataset, adaptation.kind)}
        texts = [text for text in repository.of_task(session, task_id) if text not in known]
        if texts:
            return texts
        if not repository.is_switched_on(session, caller.tenant_id):
            raise ConflictError(
                f"this service keeps no texts of tenant {caller.tenant_id}: send `inputs`, or ask its operator for "
                f"`ipt tenants keep-texts {caller.tenant_id} on`",
                code="texts_not_kept",
                param="inputs",
            )
    raise ConflictError(
        "no unlabelled text is kept for this task yet: send `inputs`, or ask the task for predictions, whose texts are "
        "kept within seconds",
        code="no_kept_texts",
        param="inputs",
    )


async def suggest(
    predictions: Predictions, tenant_id: str, task_id: str, unlabelled: Sequence[str], body: SuggestInput
) -> SuggestView:
    """Return which texts to label next; raises as `Predictions.ask` and `Predictions.embed` do."""
    version = body.version
    scores: list[NDArray[np.float64]] = []
    embeddings: list[NDArray[np.float32]] = []
    labels: Sequence[str] = ()
    for start in range(0, len(unlabelled), TEXTS_AT_ONCE):
        texts = unlabelled[start : start + TEXTS_AT_ONCE]
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
            SuggestionView(
                index=None if body.inputs is None else number,
                text=unlabelled[number],
                label=labels[int(named[number])],
                uncertainty=float(uncertainty[number]),
            )
            for number in chosen
        ],
    )
