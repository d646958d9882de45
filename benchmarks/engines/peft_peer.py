"""PEFT's prompt tuning on the same frozen weights, in a minimal training loop.

In PEFT's favor, rows are tokenized and padded to the longest of a batch before the measured time, and there is no
dropout. One model tunes all jobs, one after another.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch import Tensor

import ipt
from benchmarks.engines.backbones import Measured
from ipt.backbones.batching import right_padded
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import TextBackbone
from ipt.backbones.text_backbone import IGNORED

Batch = dict[str, Tensor]


class PeftPeer:
    """A PEFT model around a copy of the bare model, with a classifier on top of an encoder."""

    def __init__(self, measured: Measured, labels: Sequence[str]) -> None:
        self.backbone = measured.backbone
        self.labels = list(labels)
        self.prompt_length = measured.subspace.prompt_length
        self.model: Any = peft.get_peft_model(_base(measured, len(self.labels)), self.config())
        self.model.eval()

    def config(self) -> peft.PromptTuningConfig:
        """Return the configuration of an adapter."""
        kinds = {"encoder": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM", "causal": "CAUSAL_LM"}
        return peft.PromptTuningConfig(
            task_type=kinds[self.backbone.family],
            num_virtual_tokens=self.prompt_length,
            num_transformer_submodules=1,
        )

    def batch(self, examples: Sequence[ipt.Example]) -> Batch:
        """Return the examples as one padded batch on the device."""
        rows = self.backbone.tokenize([example.input for example in examples])
        targets = None
        if isinstance(self.backbone, TextBackbone):
            targets = self.backbone.tokenize_targets([example.output for example in examples])
        if self.backbone.family == "causal":
            assert targets is not None
            padded_targets = [[IGNORED] * len(row) + target for row, target in zip(rows, targets, strict=True)]
            rows = [row + target for row, target in zip(rows, targets, strict=True)]
            labels, _ = right_padded(padded_targets, IGNORED)
        elif targets is not None:
            labels, _ = right_padded(targets, IGNORED)
        else:
            labels = torch.tensor([self.labels.index(example.output) for example in examples])
        ids, lengths = right_padded(rows)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: tensor.to(self.backbone.device) for name, tensor in batch.items()}

    def optimizer(self, learning_rate: float = 0.03) -> torch.optim.Optimizer:
        """Return an optimizer of the trained weights: the prompt, and an encoder's classifier."""
        trained = [weights for weights in self.model.parameters() if weights.requires_grad]
        return torch.optim.AdamW(trained, lr=learning_rate)

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Take one gradient step."""
        optimizer.zero_grad()
        self.model(**batch).loss.backward()
        optimizer.step()


def _base(measured: Measured, labels: int) -> Any:
    if not isinstance(measured.backbone, EncoderBackbone):
        return copy.deepcopy(measured.bare)
    from transformers import AutoModelForSequenceClassification

    config: Any = copy.deepcopy(measured.bare.config)
    config.num_labels = labels
    model = AutoModelForSequenceClassification.from_config(config).to(measured.backbone.dtype)
    model.base_model.load_state_dict(measured.bare.state_dict(), strict=False)
    return model.to(measured.backbone.device)
