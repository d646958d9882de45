"""The generation engine: writes any number of texts of any tasks, one token of each a step, in shared batches.

Texts join with `add` and leave when they end, or with `cancel`, between steps (continuous batching). On `causal`
backbones a new text joins the running batch; on `seq2seq` backbones the texts that arrive together start a batch of
their own. When memory runs out, the texts of the failed pass return to the queue with their tokens, and the row limit
is halved.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ipt.backbones.interface import Backbone
from ipt.backbones.text_backbone import Decoding, PromptedTextBackbone
from ipt.data.examples import text_fault
from ipt.errors import BackboneError, IptError
from ipt.generation.batch import GenerationRequest, TextBatch, TextInProgress
from ipt.generation.beams import BeamSearch
from ipt.generation.events import GenerationEvent
from ipt.generation.json_format import JsonSchema, JsonTokens
from ipt.generation.parameters import GenerationParameters
from ipt.generation.prefix_cache import PrefixCache
from ipt.generation.text_stream import TextStream
from ipt.runtime.memory import is_out_of_memory
from ipt.subspace.subspace import Subspace

log = logging.getLogger(__name__)

READ_POSITIONS = 8192
"""Most input positions that one step reads, so that new texts do not delay running ones for long."""
MAX_BATCHES = 4
"""Most batches that run at the same time if texts cannot join a batch."""
STEPS_TO_RECOVER = 256
"""Steps without a failure after which the row limit doubles again."""


@dataclass(frozen=True)
class _Failure:
    """Texts whose shared pass failed, and whether other texts were in memory."""

    texts: list[TextInProgress]
    error: Exception
    beside_others: bool


class GenerationEngine:
    """Writes texts with one backbone and one subspace, both frozen. Not thread-safe, except for the checks.

    Args:
        backbone: a `seq2seq` or `causal` backbone.
        subspace: found on that backbone.
        batch_rows: most rows that are written at a time; a beam is a row.
        prompt_cache_bytes: memory for the prompts of recently used tasks.

    Raises:
        BackboneError: the backbone is an encoder.
        SubspaceMismatchError: the subspace belongs to another backbone.
    """

    def __init__(
        self, backbone: Backbone, subspace: Subspace, *, batch_rows: int = 32, prompt_cache_bytes: int = 2**28
    ) -> None:
        if not isinstance(backbone, PromptedTextBackbone):
            raise BackboneError(
                f"backbone {backbone.identity.id!r} is an encoder, which classifies but does not write text: "
                "predict with its tasks, or use a seq2seq or causal backbone",
                param="backbone",
            )
        backbone = subspace.placed(backbone)
        assert isinstance(backbone, PromptedTextBackbone)
        self.backbone = backbone
        self.subspace = subspace
        self.prompts = PrefixCache(backbone, subspace, prompt_cache_bytes)
        self.row_limit = batch_rows
        """Most rows that are written at a time; below `batch_rows` after memory has run out."""
        self.last_rows = 0
        """Rows of the last step, including beams."""
        self._batch_rows = batch_rows
        self._steps_without_failure = 0
        self._json_tokens: JsonTokens | None = None
        self._json_lock = threading.Lock()
        self._waiting: deque[TextInProgress] = deque()
        self._batches: list[TextBatch] = []

    @property
    def running_rows(self) -> int:
        """Rows of all batches, including beams."""
        return sum(text.width for batch in self._batches for text in batch.texts)

    @property
    def waiting(self) -> int:
        """Number of texts that wait to start, or to continue after a failure."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._waiting and not self._batches

    @property
    def default_new_tokens(self) -> int:
        """Most tokens of one text if the request does not say."""
        return self.backbone.default_new_tokens(self.subspace.prompt_length)

    def check(self, parameters: GenerationParameters) -> None:
        """Reject parameters that this backbone does not support. Thread-safe.

        Raises:
            IptError: the backbone has no room for that many tokens after a prompt and an input.
        """
        limit, requested = self.backbone.max_target_tokens, parameters.max_new_tokens
        if requested > limit:
            raise IptError(
                f"max_new_tokens is at most {limit}, half of the positions that the backbone attends to; "
                f"got {requested}",
                param="max_new_tokens",
            )
        try:
            self.backbone.fit_input([0], self.subspace.prompt_length, requested)
        except BackboneError as error:
            raise IptError(error.message, param="max_new_tokens") from error

    def check_schema(self, schema: JsonSchema) -> None:
        """Prepare the backbone for JSON output, which takes a second once, and check a schema. Thread-safe.

        Raises:
            BackboneError: the backbone's tokenizer cannot write JSON.
            IptError: the schema is too complex.
        """
        self._tokens_for_json().matcher(schema)

    def _tokens_for_json(self) -> JsonTokens:
        with self._json_lock:
            if self._json_tokens is None:
                backbone = self.backbone
                self._json_tokens = JsonTokens(backbone.tokenizer, backbone.vocabulary_size, backbone.stop_tokens)
            return self._json_tokens

    def add(self, request: GenerationRequest) -> None:
        """Add a text; it starts at the next `step` with room for it.

        An input that does not fit next to the prompt and `max_new_tokens` is truncated as in `Backbone.tokenize`: a
        `causal` backbone drops its beginning, a `seq2seq` backbone its end. The prompt is never truncated.

        Raises:
            IptError: the text cannot be tokenized, or `check` rejects the parameters.
        """
        parameters = request.parameters
        self.check(parameters)
        fault = text_fault(request.text)
        if fault:
            raise IptError(f"the text {fault}", param="text")
        [tokens] = self.backbone.tokenize([request.text])
        # `tokenize` truncates to all positions of the backbone; the prompt and the new tokens need some of them.
        fitted = self.backbone.fit_input(tokens, self.subspace.prompt_length, parameters.max_new_tokens)
        search = None
        if parameters.num_beams > 1:
            search = BeamSearch(parameters.num_beams, self.backbone.stop_tokens, parameters.max_new_tokens)
        schema = parameters.json_schema
        matcher = None if schema is None else self._tokens_for_json().matcher(schema)
        seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
        stream = TextStream(self.backbone.decode, parameters.stop)
        self._waiting.append(TextInProgress(request, fitted, len(fitted) < len(tokens), stream, seed, search, matcher))

    def cancel(self, request_id: str) -> None:
        """End a text at the next step; do nothing if it has already ended."""
        for text in [*self._waiting, *(text for batch in self._batches for text in batch.texts)]:
            if text.request.request_id == request_id:
                text.cancelled = True

    def clear(self) -> None:
        """Drop all texts without an event."""
        self._waiting.clear()
        self._batches.clear()

    @torch.inference_mode()
    def step(self) -> list[GenerationEvent]:
        """Start the texts that there is room for, write one token of every text, and return what is new."""
        events: list[GenerationEvent] = []
        for text in [text for text in self._waiting if text.cancelled]:
            self._waiting.remove(text)
            events.append(text.finish("cancelled"))
        failures = self._admit()
        self.last_rows = 0
        for batch in self._batches:
            self.last_rows += batch.decoding.logits.shape[0]
            try:
                if batch.choose_tokens(self.backbone.stop_tokens, events):
                    batch.extend(self.backbone.device)
            except Exception as error:  # noqa: BLE001 - a text that fails on the device must not stop the others
                unfinished = [text for text in batch.texts if not text.ended]
                failures.append(_Failure(unfinished, error, len(self._batches) > 1))
                batch.texts = []
        self._batches = [batch for batch in self._batches if batch.texts]
        for failure in failures:
            events += self._handle_failure(failure)
        self._recover(failed=bool(failures))
        return events

    def _admit(self) -> list[_Failure]:
        """Start waiting texts."""
        admitted = self._take_waiting()
        # A text that has tokens from before a failure continues in a pass of its own.
        resumed = [[text] for text in admitted if any(text.continuations)]
        fresh = [text for text in admitted if not any(text.continuations)]
        failures: list[_Failure] = []
        for group in [*resumed, *([fresh] if fresh else [])]:
            try:
                self._join(TextBatch(group, self._prefill(group)))
            except Exception as error:  # noqa: BLE001 - as in `step`
                failures.append(_Failure(group, error, bool(self._batches)))
        return failures

    def _take_waiting(self) -> list[TextInProgress]:
        """Remove from the queue the first texts that there is room for."""
        admitted: list[TextInProgress] = []
        room = self.row_limit - self.running_rows
        longest = 0
        while self._waiting and len(self._batches) < MAX_BATCHES:
            text = self._waiting[0]
            longest = max(longest, len(text.input))
            # The beams of one text stay together, even if they exceed the limit.
            if text.width > room and (admitted or self._batches):
                break
            if admitted and (len(admitted) + 1) * longest > READ_POSITIONS:
                break
            room -= text.width
            admitted.append(self._waiting.popleft())
        return admitted

    def _prefill(self, texts: Sequence[TextInProgress]) -> Decoding:
        prompts = self.prompts.of([text.request.task for text in texts])
        decoding = self.backbone.prefill_after_prompts([text.input for text in texts], prompts)
        if any(text.width > 1 for text in texts):
            decoding = decoding.select(torch.tensor([i for i, text in enumerate(texts) for _ in range(text.width)]))
        if any(texts[0].continuations):  # a resumed text is the only one
            decoding.extend(torch.tensor(texts[0].continuations, device=self.backbone.device))
        return decoding

    def _join(self, new: TextBatch) -> None:
        merged = self._batches[0].decoding.merge(new.decoding) if self._batches else None
        if merged is None:
            self._batches.append(new)
        else:
            self._batches[0].decoding = merged
            self._batches[0].texts += new.texts

    def _handle_failure(self, failure: _Failure) -> list[GenerationEvent]:
        """Return texts that failed together to the queue; a text that failed alone ends with its error."""
        texts, error = failure.texts, failure.error
        out_of_memory = is_out_of_memory(error)
        log.warning("generation failed rows=%d error=%s", sum(text.width for text in texts), type(error).__name__)
        if out_of_memory:
            error.__traceback__ = None  # it keeps tensors alive
            self.prompts.clear()
            if self.backbone.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(texts) == 1 and not (out_of_memory and failure.beside_others):
            return [texts[0].finish("failed", error)]
        self._waiting.extendleft(reversed(texts))
        self.row_limit = max(1, (self.running_rows + sum(text.width for text in texts)) // 2)
        return []

    def _recover(self, *, failed: bool) -> None:
        """Double the row limit after enough steps without a failure."""
        self._steps_without_failure = 0 if failed else self._steps_without_failure + 1
        if self._steps_without_failure >= STEPS_TO_RECOVER and self.row_limit < self._batch_rows:
            self.row_limit = min(2 * self.row_limit, self._batch_rows)
            self._steps_without_failure = 0
