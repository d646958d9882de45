"""The texts that one model answers: tokenize them, and submit them to the model's batcher."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, cast

import ipt
from app.db.coalescer import Coalescer
from app.predictions.batcher import BATCH_SECONDS, Answer, Batcher, Embedding, Row
from app.predictions.model import Model
from app.settings import Settings

CHARS_PER_TOKENIZATION = 16_384
"""Most characters that are tokenized in one call, which takes a fraction of a second; a single text may have more."""

TokenizedText = tuple[list[int], bool]
"""The tokens of a text, and whether it is longer than the backbone reads."""


class Lane:
    """The tokenizer and the batcher of one model, for all tenants."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self.model = model
        self._tokenizer = Coalescer(self._tokenize_all, name="tokenizer", most=CHARS_PER_TOKENIZATION)
        self._batcher = Batcher(
            self._run,
            wait_seconds=settings.predict_wait_ms / 1000,
            batch_rows=settings.predict_batch_rows,
            batch_tokens=settings.predict_batch_tokens,
            # The time of a batch that writes depends on the texts that it writes, and more rows hardly add to it. The
            # family is known once the model is loaded.
            batch_seconds=lambda: BATCH_SECONDS if model.family == "encoder" else None,
        )

    def read(self, tenant_id: str, texts: Sequence[str]) -> "list[asyncio.Future[list[TokenizedText]]]":
        """Begin to tokenize texts; the lists of all futures together are the texts in order."""
        return [
            asyncio.wrap_future(self._tokenizer.ask(part, sum(map(len, part)), tenant_id)) for part in _parts(texts)
        ]

    async def answer(self, tenant_id: str, rows: Sequence[Row], arrived_at: float | None = None) -> Answer:
        """Answer rows in the model's batches; raises what `Batcher.submit` and the futures of it do."""
        positions = self.model.predictor.prompt_positions
        return await asyncio.wrap_future(self._batcher.submit(tenant_id, rows, positions, arrived_at))

    def close(self) -> None:
        """Stop answering."""
        self._tokenizer.close()
        self._batcher.close()

    def _run(self, rows: Sequence[Row]) -> list[ipt.Prediction]:
        """Run a batch: predict its rows, and embed those that ask for an embedding."""
        predictor = self.model.predictor
        with self.model.device_turn():
            if not any(isinstance(task, Embedding) for task, _ in rows):
                return predictor.predict(cast(Sequence[tuple[ipt.BoundTask, list[int]]], rows))
            return _embed_and_predict(predictor, rows)

    def _tokenize_all(self, parts: Sequence[Sequence[str]]) -> list[list[TokenizedText] | Exception]:
        tokenized = iter(self.model.predictor.read([text for texts in parts for text in texts]))
        return [[next(tokenized) for _ in texts] for texts in parts]


def _embed_and_predict(predictor: ipt.Predictor, rows: Sequence[Row]) -> list[ipt.Prediction]:
    """Answer the rows of a batch in three groups: predicted, embedded with a prompt, embedded without one."""
    predicted, prompted, frozen = [], [], []
    for number, (task, ids) in enumerate(rows):
        if not isinstance(task, Embedding):
            predicted.append((number, (task, ids)))
        elif task.task is not None:
            prompted.append((number, (task.task, ids)))
        else:
            frozen.append((number, ids))
    answers: dict[int, ipt.Prediction] = {}
    answers.update(zip(_firsts(predicted), predictor.predict([row for _, row in predicted]), strict=True))
    embeddings = predictor.embed([row for _, row in prompted]) + predictor.embed_frozen([ids for _, ids in frozen])
    wrapped = (ipt.Prediction(embedding=embedding) for embedding in embeddings)
    answers.update(zip([*_firsts(prompted), *_firsts(frozen)], wrapped, strict=True))
    return [answers[number] for number in range(len(rows))]


def _firsts(pairs: Sequence[tuple[int, Any]]) -> list[int]:
    return [number for number, _ in pairs]


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in order, as many at a time as are tokenized in one call, so that other tenants get turns."""
    part: list[str] = []
    chars = 0
    for text in texts:
        if part and chars + len(text) > CHARS_PER_TOKENIZATION:
            yield part
            part, chars = [], 0
        part.append(text)
        chars += len(text)
    yield part
