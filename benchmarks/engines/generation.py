"""The row on text generation: with soft prompts, and with the bare model."""

from __future__ import annotations

import numpy as np
import torch

import ipt
from benchmarks.engines.backbones import Measured, texts
from benchmarks.engines.timing import faster, in_turn
from benchmarks.report import Figure
from ipt.backbones.text_backbone import PromptedTextBackbone

ROWS = 8
TOKENS = 64


def generation(measured: Measured, rounds: int) -> Figure:
    """Compare texts of different tasks, whose prompts are cached, with the bare model without prompts."""
    backbone = measured.backbone
    assert isinstance(backbone, PromptedTextBackbone)
    # Random weights may generate stop tokens; all texts must be equally long.
    backbone.stop_tokens = frozenset()
    engine = ipt.GenerationEngine(backbone, measured.subspace, batch_rows=ROWS)
    predictor = ipt.Predictor(backbone, measured.subspace)
    [text] = texts(1)
    shape = (ROWS, measured.subspace.intrinsic_dim)
    vectors = (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    tasks = [predictor.bind(ipt.TaskHead(vector, measured.subspace.id, "text2text", (), None)) for vector in vectors]
    parameters = ipt.GenerationParameters(max_new_tokens=TOKENS)
    input_ids = torch.tensor(backbone.tokenize([text] * ROWS), device=backbone.device)
    model = measured.bare

    def ours() -> None:
        for number, task in enumerate(tasks):
            engine.add(ipt.GenerationRequest(str(number), task, text, parameters))
        generated = 0
        while not engine.idle:
            finished = [event for event in engine.step() if isinstance(event, ipt.TextFinished)]
            generated += sum(event.generated_tokens for event in finished)
        assert generated == ROWS * TOKENS

    @torch.inference_mode()
    def bare() -> None:
        answer = model(input_ids=input_ids, use_cache=True)
        for _ in range(TOKENS - 1):
            tokens = answer.logits[:, -1].argmax(dim=-1, keepdim=True)
            answer = model(input_ids=tokens, past_key_values=answer.past_key_values, use_cache=True)

    ratio = faster(in_turn({"ours": ours, "bare": bare}, rounds, backbone.device), "ours", "bare")
    how = (
        f"{measured.name} in its real shape with random weights. `GenerationEngine` generates {ROWS} texts of {TOKENS}"
        f" tokens each with greedy decoding, of different tasks with prompts of {measured.subspace.prompt_length}"
        f" positions, which are cached. The bare model: the same input of {input_ids.shape[1]} tokens without prompts,"
        f" its own KV cache, greedy decoding, and no conversion to text. {rounds} alternating rounds: median, minimum"
        " and maximum."
    )
    what = f"{measured.name} text generation, against the bare model"
    return Figure(what, str(ratio), "≥ 0.97×", ratio.median >= 0.97, how)
