"""The generation engine: writes any number of texts of any tasks, one token of each a step, in shared batches.

Texts join with `add` and leave when they have ended, or with `cancel`, between steps. On `causal` backbones a new row
joins the running batch; on `seq2seq` ones the rows that come together begin a batch of their own. When memory runs out
the rows go back to the queue with what they have written, and half as many are taken at a time.

Letters: B rows, L tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ipt.backbones.interface import Backbone, TokenIds
from ipt.backbones.text_backbone import Decoding, PromptedTextBackbone
from ipt.data.examples import text_fault
from ipt.errors import BackboneError, IptError
from ipt.generation.beams import BeamSearch
from ipt.generation.events import FinishReason, GenerationEvent, TextDelta, TextFinished
from ipt.generation.parameters import GenerationParameters
from ipt.generation.prefix_cache import PrefixCache
from ipt.generation.sampling import draw, next_tokens
from ipt.generation.text_stream import TextStream
from ipt.prediction.tasks import BoundTask
from ipt.runtime.memory import is_out_of_memory
from ipt.subspace.subspace import Subspace

log = logging.getLogger(__name__)

READ_POSITIONS = 8192
"""Most positions of inputs that are read in one step, so that running texts do not wait long for new ones."""
MOST_BATCHES = 4
"""Batches that are written side by side where rows cannot join."""
STEPS_TO_RECOVER = 256
"""After so many steps without a failure twice as many rows are taken again."""


@dataclass(frozen=True)
class GenerationRequest:
    """One text to be written for a task."""

    request_id: str
    task: BoundTask
    text: str
    parameters: GenerationParameters = field(default_factory=GenerationParameters)


@dataclass(eq=False)
class _Row:
    """A text in the making; with a beam search it takes several rows of its batch."""

    request: GenerationRequest
    input: TokenIds
    truncated: bool
    stream: TextStream
    seed: int
    search: BeamSearch | None
    written: TokenIds = field(default_factory=list)
    cancelled: bool = False
    ended: bool = False

    @property
    def width(self) -> int:
        return len(self.search.written) if self.search else 1

    @property
    def continuations(self) -> list[TokenIds]:
        """What was written behind the input, for each of the rows in the batch."""
        return self.search.written if self.search else [self.written]


@dataclass(eq=False)
class _Batch:
    rows: list[_Row]
    decoding: Decoding


@dataclass(frozen=True)
class _Failure:
    """Rows that could not be begun or go on together, and whether there were others in memory."""

    rows: list[_Row]
    error: Exception
    beside_others: bool


class GenerationEngine:
    """Writes texts with one backbone and one subspace, both frozen. One thread may use it at a time.

    Args:
        backbone: a `seq2seq` or `causal` one.
        subspace: found on that backbone.
        batch_rows: most rows that are written at a time; a beam is a row.
        prompt_cache_bytes: memory for what tasks cost before their inputs, so that a task in use costs it once.

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
        subspace.check_backbone(backbone)
        self.backbone = backbone
        self.subspace = subspace
        self.prompts = PrefixCache(backbone, subspace, prompt_cache_bytes)
        self.row_limit = batch_rows
        """Rows taken at a time; fewer than `batch_rows` after memory has run out."""
        self.last_rows = 0
        """Rows that the last step has written a token of, beams included."""
        self._batch_rows = batch_rows
        self._good_steps = 0
        self._waiting: deque[_Row] = deque()
        self._batches: list[_Batch] = []

    @property
    def running_rows(self) -> int:
        """Rows of the batches, beams included."""
        return sum(row.width for batch in self._batches for row in batch.rows)

    @property
    def waiting(self) -> int:
        """Texts that have not begun, or have gone back to wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._waiting and not self._batches

    @property
    def most_new_tokens(self) -> int:
        """Most tokens of one text: half of the positions that the backbone attends to."""
        return self.backbone.max_target_tokens

    @property
    def default_new_tokens(self) -> int:
        """Most tokens of one text where nobody says."""
        return self.backbone.default_new_tokens(self.subspace.prompt_length)

    def check(self, parameters: GenerationParameters) -> None:
        """Refuse what this backbone cannot do; any thread may ask.

        Raises:
            IptError: more tokens than the backbone can write behind a prompt and an input.
        """
        most, asked = self.most_new_tokens, parameters.max_new_tokens
        if asked > most:
            raise IptError(
                f"max_new_tokens is at most {most}, half of the positions that the backbone attends to; got {asked}",
                param="max_new_tokens",
            )
        try:
            self.backbone.fit_input([0], self.subspace.prompt_length, asked)
        except BackboneError as error:
            raise IptError(error.message, param="max_new_tokens") from error

    def add(self, request: GenerationRequest) -> None:
        """Take a text in; it is begun at the next `step` with room for it.

        An input that does not fit beside the prompt and `max_new_tokens` is shortened as `Backbone.tokenize` does it:
        a `causal` one loses its beginning, a `seq2seq` one its end. The prompt is never shortened.

        Raises:
            IptError: the text cannot be read, or what `check` raises.
        """
        parameters = request.parameters
        self.check(parameters)
        fault = text_fault(request.text)
        if fault:
            raise IptError(f"the text {fault}", param="text")
        [read] = self.backbone.tokenize([request.text])
        # `tokenize` cuts at all positions, which are more than fit beside a prompt: such a row is cut once more here.
        fitted = self.backbone.fit_input(read, self.subspace.prompt_length, parameters.max_new_tokens)
        search = None
        if parameters.num_beams > 1:
            search = BeamSearch(parameters.num_beams, self.backbone.stop_tokens, parameters.max_new_tokens)
        seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
        stream = TextStream(self.backbone.decode, parameters.stop)
        self._waiting.append(_Row(request, fitted, len(fitted) < len(read), stream, seed, search))

    def cancel(self, request_id: str) -> None:
        """End a text at the next step; nothing happens when it has ended already."""
        for row in [*self._waiting, *(row for batch in self._batches for row in batch.rows)]:
            if row.request.request_id == request_id:
                row.cancelled = True

    def clear(self) -> None:
        """Drop all texts, without a word."""
        self._waiting.clear()
        self._batches.clear()

    @torch.inference_mode()
    def step(self) -> list[GenerationEvent]:
        """Begin the texts there is room for, then write one token of each; what is certain of them since."""
        events: list[GenerationEvent] = []
        for row in [row for row in self._waiting if row.cancelled]:
            self._waiting.remove(row)
            events.append(_finished(row, "cancelled"))
        failures = self._admit()
        self.last_rows = 0
        for batch in self._batches:
            self.last_rows += batch.decoding.logits.shape[0]
            try:
                if self._choose(batch, events):
                    self._extend(batch)
            except Exception as error:  # noqa: BLE001 - whatever one text does to the device, others go on
                rest = [row for row in batch.rows if not row.ended]
                failures.append(_Failure(rest, error, len(self._batches) > 1))
                batch.rows = []
        self._batches = [batch for batch in self._batches if batch.rows]
        for failure in failures:
            events += self._retreat(failure)
        self._recover(failed=bool(failures))
        return events

    def _admit(self) -> list[_Failure]:
        """Begin what has come."""
        taken = self._take()
        # What has written already, before memory ran out, goes on in a pass of its own.
        groups = [[row] for row in taken if any(row.continuations)]
        fresh = [row for row in taken if not any(row.continuations)]
        failures: list[_Failure] = []
        for group in [*groups, *([fresh] if fresh else [])]:
            try:
                self._join(_Batch(group, self._begun(group)))
            except Exception as error:  # noqa: BLE001 - as in `step`
                failures.append(_Failure(group, error, bool(self._batches)))
        return failures

    def _take(self) -> list[_Row]:
        """The first of those that wait, as many as there is room for."""
        taken: list[_Row] = []
        room = self.row_limit - self.running_rows
        longest = 0
        while self._waiting and len(self._batches) < MOST_BATCHES:
            row = self._waiting[0]
            longest = max(longest, len(row.input))
            # Beams of one text stay together, also where the limit is lower than their number.
            if row.width > room and (taken or self._batches):
                break
            if taken and (len(taken) + 1) * longest > READ_POSITIONS:
                break
            room -= row.width
            taken.append(self._waiting.popleft())
        return taken

    def _begun(self, rows: Sequence[_Row]) -> Decoding:
        read = self.prompts.of([row.request.task for row in rows])
        decoding = self.backbone.prefill_after_prompts([row.input for row in rows], read)
        if any(row.width > 1 for row in rows):
            decoding = decoding.select(torch.tensor([i for i, row in enumerate(rows) for _ in range(row.width)]))
        if any(rows[0].continuations):  # then it is alone
            decoding.extend(self._tokens(rows[0].continuations))
        return decoding

    def _join(self, new: _Batch) -> None:
        joined = self._batches[0].decoding.merge(new.decoding) if self._batches else None
        if joined is None:
            self._batches.append(new)
        else:
            self._batches[0].decoding = joined
            self._batches[0].rows += new.rows

    def _choose(self, batch: _Batch, events: list[GenerationEvent]) -> bool:
        """Write the next token of each row; those that have ended leave. Whether any goes on."""
        logits = batch.decoding.logits
        widths = [row.width for row in batch.rows]
        single = [row.request.parameters for row in batch.rows for _ in range(row.width)]
        draws = [
            draw(row.seed, len(row.written)) if row.request.parameters.temperature else 0.0
            for row in batch.rows
            for _ in range(row.width)
        ]
        tokens: list[int] = next_tokens(logits, single, draws).tolist()
        sources: list[int] = []
        staying: list[_Row] = []
        place = 0
        for row, width in zip(batch.rows, widths, strict=True):
            places = range(place, place + width)
            place += width
            if row.cancelled:
                events.append(_finished(row, "cancelled"))
            elif row.search is None:
                reason = self._write(row, tokens[places[0]], events)
                if reason is None:
                    staying.append(row)
                    sources += places
            else:
                chosen = row.search.advance(logits[places.start : places.stop])
                if chosen is None:
                    self._write_out(row, row.search.best, events)
                else:
                    staying.append(row)
                    sources += [places[beam] for beam in chosen]
        batch.rows = staying
        if sources and sources != list(range(logits.shape[0])):
            batch.decoding = batch.decoding.select(torch.tensor(sources))
        return bool(sources)

    def _extend(self, batch: _Batch) -> None:
        last = [tokens[-1:] for row in batch.rows for tokens in row.continuations]
        batch.decoding.extend(self._tokens(last))

    def _write(self, row: _Row, token: int, events: list[GenerationEvent]) -> FinishReason | None:
        """Add a token to a row's text; the reason if it ends there."""
        row.written.append(token)
        reason: FinishReason | None = None
        if token in self.backbone.stop_tokens:
            reason = "stop"
        else:
            piece, stopped = row.stream.push(token)
            if piece:
                events.append(TextDelta(row.request.request_id, piece))
            if stopped:
                events.append(_finished(row, "stop"))
                return "stop"
            if len(row.written) == row.request.parameters.max_new_tokens:
                reason = "length"
        if reason:
            rest = row.stream.finish()
            if rest:
                events.append(TextDelta(row.request.request_id, rest))
            events.append(_finished(row, reason))
        return reason

    def _write_out(self, row: _Row, tokens: TokenIds, events: list[GenerationEvent]) -> None:
        """The whole text of a beam search, of which nothing is known before."""
        for token in tokens:
            if self._write(row, token, events):
                return

    def _retreat(self, failure: _Failure) -> list[GenerationEvent]:
        """Let rows wait again that have failed together; a row that failed alone has failed for good."""
        rows, error = failure.rows, failure.error
        out_of_memory = is_out_of_memory(error)
        log.warning("generation failed rows=%d error=%s", sum(row.width for row in rows), type(error).__name__)
        if out_of_memory:
            error.__traceback__ = None  # which holds on to tensors
            self.prompts.clear()
            if self.backbone.device.type == "cuda":
                torch.cuda.empty_cache()
        if len(rows) == 1 and not (out_of_memory and failure.beside_others):
            return [_finished(rows[0], "failed", error)]
        self._waiting.extendleft(reversed(rows))
        self.row_limit = max(1, (self.running_rows + sum(row.width for row in rows)) // 2)
        return []

    def _recover(self, *, failed: bool) -> None:
        self._good_steps = 0 if failed else self._good_steps + 1
        if self._good_steps >= STEPS_TO_RECOVER and self.row_limit < self._batch_rows:
            self.row_limit = min(2 * self.row_limit, self._batch_rows)
            self._good_steps = 0

    def _tokens(self, rows: Sequence[TokenIds]) -> Tensor:
        """[B, L]"""
        return torch.tensor(rows, device=self.backbone.device)


def _finished(row: _Row, reason: FinishReason, error: Exception | None = None) -> TextFinished:
    row.ended = True
    return TextFinished(
        row.request.request_id, reason, row.stream.text, len(row.input), len(row.written), row.truncated, error
    )
