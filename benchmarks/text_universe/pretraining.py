"""Pre-train a small BART on the list tasks, described by instruction words, and save it as a transformers model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.text_universe.tasks import VOCABULARY, UniverseTask
from ipt.backbones.batching import right_padded
from ipt.backbones.text_backbone import IGNORED
from ipt.runtime.atomic_files import replace_atomically

INDEX = {word: index for index, word in enumerate(VOCABULARY)}
PADDING, END = INDEX["<pad>"], INDEX["</s>"]
WARMUP_STEPS = 100
CHECKPOINT_EVERY_STEPS = 250


@dataclass(frozen=True)
class PretrainingOptions:
    """Size of the model and of its training."""

    hidden_size: int = 224
    head_size: int = 32
    layers: int = 2
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


def pretrain(
    folder: Path,
    tasks: Sequence[UniverseTask],
    options: PretrainingOptions,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train a model on the tasks, described by words in front of the input, and save it to `folder` unless it exists.

    An interrupted run resumes from its checkpoint; all randomness of step s is drawn from (seed, s).

    Args:
        on_step: called with the number of completed steps and the loss.
    """
    if folder.is_dir():
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model: Any = BartForConditionalGeneration(_config(options))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98))
    checkpoint = folder.with_name(f"{folder.name}.pt")
    done = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    model.train()
    for step in range(done, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(step, options.steps)
        loss = _loss(model, tasks, options.batch_size, np.random.default_rng([options.seed, step]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % CHECKPOINT_EVERY_STEPS == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": step + 1}
            with replace_atomically(checkpoint) as temporary:
                torch.save(state, temporary)
        if on_step:
            on_step(step + 1, loss.item())
    save_backbone(model, folder)
    checkpoint.unlink(missing_ok=True)
    return folder


def save_backbone(model: Any, folder: Path) -> None:
    """Save model and tokenizer atomically."""
    with replace_atomically(folder) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        model.eval().save_pretrained(temporary)
        _tokenizer().save_pretrained(temporary)


def _loss(model: Any, tasks: Sequence[UniverseTask], rows: int, rng: np.random.Generator) -> Tensor:
    chosen = [tasks[i] for i in rng.integers(len(tasks), size=rows)]
    examples = [task.example(rng) for task in chosen]
    inputs, lengths = right_padded(
        [_ids(task.with_words(example.input, rng)) for task, example in zip(chosen, examples, strict=True)], PADDING
    )
    targets, _ = right_padded([_ids(example.output) for example in examples], padding=IGNORED)
    mask = (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
    loss: Tensor = model(input_ids=inputs, attention_mask=mask, labels=targets).loss
    return loss


def _ids(text: str) -> list[int]:
    return [*(INDEX[word] for word in text.split()), END]


def _schedule(step: int, steps: int) -> float:
    """Return the learning rate factor: a linear warm-up, and a linear decay over the second half."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (0.5 * steps))


def _config(options: PretrainingOptions) -> BartConfig:
    layers, heads, width = options.layers, options.hidden_size // options.head_size, 2 * options.hidden_size
    return BartConfig(
        vocab_size=len(VOCABULARY),
        d_model=options.hidden_size,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=width,
        decoder_ffn_dim=width,
        max_position_embeddings=32,
        dropout=0.0,
        init_std=0.05,
        bos_token_id=INDEX["<s>"],
        pad_token_id=PADDING,
        eos_token_id=END,
        forced_eos_token_id=None,
        decoder_start_token_id=END,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer. It adds no first token, so that prompts take the place of words."""
    tokenizer = Tokenizer(WordLevel(INDEX, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
