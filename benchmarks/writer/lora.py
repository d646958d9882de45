"""LoRA on the same backbone (Hu et al., arXiv 2106.09685), by PEFT: the query and value projections of every layer."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.writer.draws import NUMBERS, TOKENS_READ, TextDraw, writer_of
from ipt.backbones.causal import CausalBackbone
from ipt.backbones.input_frame import PLAIN_FRAME, user_turn
from ipt.backbones.interface import TokenIds
from ipt.data.examples import Example, infer_kind, labels_of
from ipt.errors import IptError
from ipt.evaluation.measurements import Detail, Measurement
from ipt.evaluation.protocol import Draw, Method, Setup

RATES = (1e-4, 5e-4, 2e-3)
RANK = 8
BATCH_ROWS = 8
HELD_BACK = 4
"""Every fourth example chooses the learning rate."""


class Lora(Method):
    """LoRA at the learning rate of the lowest loss on held-back examples."""

    slow = True
    uses_subspace = False

    def __init__(self, name: str, steps: int) -> None:
        super().__init__(name)
        self._steps = steps

    def measure(self, setup: Setup, draws: Sequence[Draw]) -> Iterator[Measurement]:
        if importlib.util.find_spec("peft") is None:
            raise IptError("LoRA needs PEFT: run `pip install 'intrinsic-prompt-tuning[bench]'`")
        backbone = writer_of(setup)
        if not isinstance(backbone, CausalBackbone):
            return
        for draw in draws:
            assert isinstance(draw, TextDraw)
            started = time.perf_counter()
            best, lowest, best_rate = None, float("inf"), RATES[0]
            for rate in RATES:
                loss, model = self._train(backbone, draw, rate)
                if best is None or loss < lowest:
                    best, lowest, best_rate = model, loss, rate
            assert best is not None
            answers = best.answers(draw)
            detail: Detail = {
                TOKENS_READ: draw.input_tokens,
                "rate": best_rate,
                NUMBERS: sum(weights.numel() for weights in best.weights),
                "held_back_loss": lowest,
            }
            yield draw.measurement(self.name, answers, time.perf_counter() - started, detail)

    def _train(self, backbone: CausalBackbone, draw: Draw, rate: float) -> tuple[float, _AdaptedModel]:
        """Return the loss on held-back examples, and the model."""
        model = _AdaptedModel(backbone, draw.seed)
        order = np.random.default_rng([draw.seed, 13]).permutation(len(draw.examples)).tolist()
        held_back = [draw.examples[number] for number in order[::HELD_BACK]]
        kept = [draw.examples[number] for place, number in enumerate(order) if place % HELD_BACK]
        optimizer = torch.optim.AdamW(model.weights, lr=rate, weight_decay=0.0)
        rng = np.random.default_rng([draw.seed, 17])
        for _ in range(self._steps):
            chosen = rng.permutation(len(kept))[:BATCH_ROWS]
            optimizer.zero_grad()
            model.loss([kept[number] for number in chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            return float(model.loss(held_back)), model


class _AdaptedModel:
    """A copy of the backbone with LoRA weights; its rows are framed as those of prompts are, without a prompt."""

    def __init__(self, backbone: CausalBackbone, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        model = copy.deepcopy(backbone.model)
        tokenizer = backbone.tokenizer
        # Framed here, because a backbone reads the tokens of its frame once, before the weights change.
        self._backbone = CausalBackbone(model, tokenizer, backbone.identity)
        with_turns = tokenizer.chat_template is not None
        self._frame = user_turn(tokenizer, backbone.identity.id, with_prompt=False) if with_turns else PLAIN_FRAME
        self._framed = backbone.placed("user_turn") if with_turns else self._backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0), model)
        self.weights = [weights for weights in model.parameters() if weights.requires_grad]

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean cross-entropy of the examples' outputs."""
        rows = self._rows([example.input for example in examples])
        targets = self._framed.tokenize_targets([example.output for example in examples])
        return self._backbone.target_cross_entropy(rows, targets, None).mean()

    @torch.no_grad()
    def answers(self, draw: Draw) -> list[str]:
        """Return the likeliest label, or a greedy text, for each test row."""
        rows = self._rows(draw.texts)
        if infer_kind(draw.examples) == "classification":
            labels = labels_of(draw.examples)
            scores = self._backbone.score_labels(rows, self._framed.tokenize_targets(labels), None)
            return [labels[number] for number in scores.argmax(dim=1).tolist()]
        return [answer.text for answer in self._backbone.answer(rows, None)]

    def _rows(self, texts: Sequence[str]) -> list[TokenIds]:
        if self._frame is PLAIN_FRAME:
            return self._backbone.tokenize(texts)
        ids = self._backbone.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [[*self._frame.before, *row, *self._frame.after] for row in ids]
