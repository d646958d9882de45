"""Texts in progress, and the batches that write one token of each in a step.

Letters: B rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ipt.backbones.interface import TokenIds
from ipt.backbones.text_backbone import Decoding
from ipt.generation.beams import BeamSearch
from ipt.generation.events import FinishReason, GenerationEvent, TextDelta, TextFinished
from ipt.generation.json_format import JsonMatcher
from ipt.generation.parameters import GenerationParameters
from ipt.generation.sampling import draw, next_tokens
from ipt.generation.text_stream import TextStream
from ipt.prediction.task_head import BoundTask


@dataclass(frozen=True)
class GenerationRequest:
    """A request to generate one text for a task."""

    request_id: str
    task: BoundTask
    text: str
    parameters: GenerationParameters = field(default_factory=GenerationParameters)


@dataclass(eq=False)
class TextInProgress:
    """A text that is being written; with a beam search it occupies several rows of its batch."""

    request: GenerationRequest
    input: TokenIds
    truncated: bool
    stream: TextStream
    seed: int
    search: BeamSearch | None
    matcher: JsonMatcher | None = None
    """Follows a text that has to fit a JSON schema."""
    written: TokenIds = field(default_factory=list)
    cancelled: bool = False
    ended: bool = False

    @property
    def width(self) -> int:
        """Number of rows."""
        return len(self.search.written) if self.search else 1

    @property
    def continuations(self) -> list[TokenIds]:
        """The tokens written after the input, for each row."""
        return self.search.written if self.search else [self.written]

    def write(self, token: int, stop_tokens: Collection[int], events: list[GenerationEvent]) -> None:
        """Append a token to the text, and end the text at a stop token, a stop string or its maximum length."""
        self.written.append(token)
        reason: FinishReason | None = None
        if token in stop_tokens:
            reason = "stop"
        else:
            if self.matcher is not None:
                self.matcher.accept(token)
            piece, stopped = self.stream.push(token)
            if piece:
                events.append(TextDelta(self.request.request_id, piece))
            if stopped:
                events.append(self.finish("stop"))
                return
            if len(self.written) == self.request.parameters.max_new_tokens:
                reason = "length"
        if reason:
            if reason == "length" and self.matcher is not None:
                pieces = (self.stream.push(token)[0] for token in self.matcher.close())
                events += [TextDelta(self.request.request_id, piece) for piece in pieces if piece]
            rest = self.stream.finish()
            if rest:
                events.append(TextDelta(self.request.request_id, rest))
            events.append(self.finish(reason))

    def write_all(self, tokens: TokenIds, stop_tokens: Collection[int], events: list[GenerationEvent]) -> None:
        """Append the result of a beam search, until the text ends."""
        for token in tokens:
            self.write(token, stop_tokens, events)
            if self.ended:
                return

    def finish(self, reason: FinishReason, error: Exception | None = None) -> TextFinished:
        """End the text and return its last event."""
        self.ended = True
        return TextFinished(
            self.request.request_id,
            reason,
            self.stream.text,
            len(self.input),
            len(self.written),
            self.truncated,
            error,
        )


@dataclass(eq=False)
class TextBatch:
    """Texts whose next tokens come from one forward pass; the rows of `decoding` are theirs, in order."""

    texts: list[TextInProgress]
    decoding: Decoding

    def choose_tokens(self, stop_tokens: Collection[int], events: list[GenerationEvent]) -> bool:
        """Choose the next token of each row, drop the texts that have ended, and return whether any continues."""
        logits = self._allowed_logits()
        widths = [text.width for text in self.texts]
        row_parameters = [text.request.parameters for text in self.texts for _ in range(text.width)]
        draws = [
            draw(text.seed, len(text.written)) if text.request.parameters.temperature else 0.0
            for text in self.texts
            for _ in range(text.width)
        ]
        tokens: list[int] = next_tokens(logits, row_parameters, draws).tolist()
        sources: list[int] = []
        continuing: list[TextInProgress] = []
        first = 0
        for text, width in zip(self.texts, widths, strict=True):
            rows = range(first, first + width)
            first += width
            if text.cancelled:
                events.append(text.finish("cancelled"))
            elif text.search is None:
                text.write(tokens[rows[0]], stop_tokens, events)
                if not text.ended:
                    continuing.append(text)
                    sources += rows
            else:
                beams = text.search.advance(logits[rows.start : rows.stop])
                if beams is None:
                    text.write_all(text.search.best, stop_tokens, events)
                else:
                    continuing.append(text)
                    sources += [rows[beam] for beam in beams]
        self.texts = continuing
        if sources and sources != list(range(logits.shape[0])):
            self.decoding = self.decoding.select(torch.tensor(sources))
        return bool(sources)

    def _allowed_logits(self) -> Tensor:
        """Return the logits of the next tokens [B, V], minus infinity for tokens that break a text's JSON schema."""
        logits, copied, row = self.decoding.logits, False, 0
        for text in self.texts:
            if text.matcher is not None:
                logits, copied = (logits if copied else logits.clone()), True
                forbidden = ~torch.from_numpy(text.matcher.allowed())
                logits[row].masked_fill_(forbidden.to(logits.device), -torch.inf)
            row += text.width
        return logits

    def extend(self, device: torch.device) -> None:
        """Run the backbone on the newest token of each row."""
        newest = [tokens[-1:] for text in self.texts for tokens in text.continuations]
        self.decoding.extend(torch.tensor(newest, device=device))
