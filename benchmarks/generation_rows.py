"""Writing text behind soft prompts, and with the bare model: the row on generation."""

from __future__ import annotations

import numpy as np
import torch

import ipt
from benchmarks.backbones import Measured, texts
from benchmarks.report import Figure
from benchmarks.timing import faster, in_turn
from ipt.backbones.text_backbone import PromptedTextBackbone

ROWS = 8
TOKENS = 64


def generation(measured: Measured, rounds: int) -> Figure:
    """Texts of as many tasks, whose prompts have been read before, and the same input without any prompt."""
    backbone = measured.backbone
    assert isinstance(backbone, PromptedTextBackbone)
    # What random weights write may be anything; all texts are to be as long.
    backbone.stop_tokens = frozenset()
    engine = ipt.GenerationEngine(backbone, measured.subspace, batch_rows=ROWS)
    predictor = ipt.Predictor(backbone, measured.subspace)
    [text] = texts(1)
    shape = (ROWS, measured.subspace.intrinsic_dim)
    vectors = (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    tasks = [predictor.bind(ipt.TaskHead(vector, measured.subspace.id, "text2text", (), None)) for vector in vectors]
    parameters = ipt.GenerationParameters(max_new_tokens=TOKENS)
    read = torch.tensor(backbone.tokenize([text] * ROWS), device=backbone.device)
    model = measured.bare

    def ours() -> None:
        for number, task in enumerate(tasks):
            engine.add(ipt.GenerationRequest(str(number), task, text, parameters))
        written = 0
        while not engine.idle:
            ended = [event for event in engine.step() if isinstance(event, ipt.TextFinished)]
            written += sum(event.generated_tokens for event in ended)
        assert written == ROWS * TOKENS

    @torch.inference_mode()
    def bare() -> None:
        answer = model(input_ids=read, use_cache=True)
        for _ in range(TOKENS - 1):
            tokens = answer.logits[:, -1].argmax(dim=-1, keepdim=True)
            answer = model(input_ids=tokens, past_key_values=answer.past_key_values, use_cache=True)

    ratio = faster(in_turn({"ours": ours, "bare": bare}, rounds, backbone.device), "ours", "bare")
    how = (
        f"{measured.name} in its real shape with random weights. `GenerationEngine` writes {ROWS} texts of {TOKENS}"
        f" tokens each, greedily, of as many tasks behind prompts of {measured.subspace.prompt_length} positions, which"
        " it has read before. The bare model: the same input of"
        f" {read.shape[1]} tokens without prompts, its own cache, the likeliest token each time, and nothing decoded to"
        f" text. {rounds} rounds in turn: median, least and most."
    )
    what = f"{measured.name} writes behind prompts, against the bare model"
    return Figure(what, str(ratio), "≥ 0.97×", ratio.median >= 0.97, how)
