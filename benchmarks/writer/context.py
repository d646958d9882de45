"""Methods that tune nothing: the examples in context, and an instruction, as text in the user's turn.

The text is a prompt whose positions are the embeddings of its tokens. So it is read once for all rows of a task, as the
prompts of the other methods are, and labels are scored in the same way.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.writer.draws import TOKENS_READ, TextDraw, writer_of
from ipt.backbones.interface import TextBackbone
from ipt.data.examples import Example, infer_kind, labels_of
from ipt.evaluation.measurements import Measurement
from ipt.evaluation.protocol import Draw, Method, Setup
from ipt.generation.batch import GenerationRequest
from ipt.generation.engine import GenerationEngine
from ipt.generation.events import TextFinished
from ipt.generation.parameters import GenerationParameters
from ipt.prediction.task_head import BoundTask, TaskHead
from ipt.subspace.full_prompt_space import full_prompt_space

ROWS = 16
"""Rows at a time; each keeps the keys and values of the whole context."""


class ContextMethod(Method):
    """Answers with a text before the input."""

    uses_subspace = False

    def measure(self, setup: Setup, draws: Sequence[Draw]) -> Iterator[Measurement]:
        backbone = writer_of(setup)
        plain = backbone.placed("user_turn" if backbone.tokenizer.chat_template else "before_input")
        assert isinstance(plain, TextBackbone)
        for draw in draws:
            assert isinstance(draw, TextDraw)
            started = time.perf_counter()
            ids = self.context(plain, draw)
            if ids is None:
                continue
            answers = answers_after(plain, ids, draw.examples, draw.texts)
            read = len(ids) + float(np.mean([len(row) for row in plain.tokenize(draw.texts)]))
            yield draw.measurement(self.name, answers, time.perf_counter() - started, {TOKENS_READ: read})

    @abstractmethod
    def context(self, backbone: TextBackbone, draw: TextDraw) -> list[int] | None:
        """Return the tokens before each input, None if the method cannot answer the task."""


class InContext(ContextMethod):
    """As many of the examples as fit into a number of tokens, mixed."""

    def __init__(self, name: str, max_tokens: int) -> None:
        super().__init__(name)
        self._max_tokens = max_tokens

    def context(self, backbone: TextBackbone, draw: TextDraw) -> list[int]:
        return tokens_of_examples(backbone, draw.examples, self._max_tokens, draw.seed)


class Instruction(ContextMethod):
    """The task's instruction in its folder's index, if it has one."""

    def __init__(self, name: str, instructions: dict[str, str]) -> None:
        super().__init__(name)
        self._instructions = instructions

    def context(self, backbone: TextBackbone, draw: TextDraw) -> list[int] | None:
        instruction = self._instructions.get(draw.task.name)
        return None if instruction is None else tokens_of_instruction(backbone, instruction)


def tokens_of_examples(backbone: TextBackbone, examples: Sequence[Example], max_tokens: int, seed: int) -> list[int]:
    """Return the tokens of as many examples as fit, mixed: a context must not end with all rows of one label."""
    mixed = [examples[number] for number in np.random.default_rng([seed, 11]).permutation(len(examples))]
    shown = [f"Input: {row.input}\nOutput: {row.output}\n\n" for row in mixed]
    ids: list[int] = []
    for count in range(len(shown) + 1):
        longer = _tokens(backbone, "".join(shown[:count]) + "Input:")
        if count and len(longer) > max_tokens:
            break
        ids = longer
    return ids


def tokens_of_instruction(backbone: TextBackbone, instruction: str) -> list[int]:
    """Return the tokens of an instruction, which the input follows."""
    return _tokens(backbone, f"{instruction}\n")


def answers_after(
    backbone: TextBackbone, ids: Sequence[int], examples: Sequence[Example], texts: Sequence[str]
) -> list[str]:
    """Return the answer to each text after the tokens `ids`: the likeliest label of the examples, or a greedy text."""
    prompt = backbone.prompts_of_tokens(torch.tensor([ids])).detach()
    if infer_kind(examples) == "classification":
        return _likeliest_labels(backbone, prompt, labels_of(examples), texts)
    space = full_prompt_space(backbone, prompt.shape[1], prompt.float().cpu())
    vector = space.initial_vectors[0]
    task = BoundTask(TaskHead(vector.numpy(), space.id, "text2text", (), None), vector, None)
    engine = GenerationEngine(backbone, space, batch_rows=ROWS)
    parameters = GenerationParameters(engine.default_new_tokens)
    for number, text in enumerate(texts):
        engine.add(GenerationRequest(str(number), task, text, parameters))
    finished: dict[str, TextFinished] = {}
    while not engine.idle:
        finished |= {event.request_id: event for event in engine.step() if isinstance(event, TextFinished)}
    for event in finished.values():
        if event.error is not None:
            raise event.error
    return [finished[str(number)].text for number in range(len(texts))]


@torch.inference_mode()
def _likeliest_labels(backbone: TextBackbone, prompt: Tensor, labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    targets = backbone.tokenize_targets(labels)
    pairs = [(row, target) for row in backbone.tokenize(texts) for target in targets]
    losses: list[float] = []
    for start in range(0, len(pairs), ROWS):
        rows, of_rows = zip(*pairs[start : start + ROWS], strict=True)
        part = backbone.target_cross_entropy(rows, of_rows, prompt, prompt_of_row=[0] * len(rows))
        losses += part.tolist()
    by_row = np.asarray(losses).reshape(-1, len(labels))
    return [labels[number] for number in by_row.argmin(axis=1)]


def _tokens(backbone: TextBackbone, text: str) -> list[int]:
    ids: list[int] = backbone.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
