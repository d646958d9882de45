"""Multi-task subspace finding, the direct way: one decoder and one vector per task, learned together end to end.

Every step draws a few tasks and a few examples of each, makes each task's soft prompt with the decoder, and takes the
tasks' loss behind it (`ipt.fitting.task_losses`), on any family of backbones.

A task's vector is its family's vector plus a difference of its own. With fixed probabilities a task is given its
family's vector alone, or the zero vector: so the zero vector comes to mean the average task, and a family's vector the
average task of the family. Tuning of a new task starts at one of them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ipt.backbones.interface import Backbone
from ipt.fitting.fit_rows import RowOptions
from ipt.fitting.resumable_fit import FitProgress, ResumableFit
from ipt.fitting.task_losses import TaskLosses
from ipt.subspace.modules import SubspaceDecoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace

VECTOR_START = 0.02
"""Standard deviation that the vectors start with, as in the reference."""

CONSTANTS_RATE = 1e-2
"""Learning rate of what the tasks' loss learns beside the subspace."""

MAX_STARTS = 8
"""Most vectors that tuning may start at: each costs a pass over a new task's examples."""


@dataclass(frozen=True)
class FitOptions(RowOptions):
    """How a subspace is found. The defaults fitted the shipped one."""

    intrinsic_dim: int = 250
    decoder_hidden: int = 384
    prompt_length: int = 16
    steps: int = 4500
    decoder_learning_rate: float = 1e-3
    vector_learning_rate: float = 1e-2
    warmup_steps: int = 60
    decay_fraction: float = 0.3
    """The learning rate falls linearly to zero over this last part of the steps."""
    gradient_clip: float = 1.0
    zero_vector_probability: float = 0.2
    family_vector_probability: float = 0.4
    family_balance: float = 0.5
    """Families are drawn in proportion to their number of tasks to this power: 1 is uniform over tasks."""


class DirectFit(ResumableFit):
    """The direct fit. `decoder` and `task_vectors` are what it learns."""

    def __init__(self, losses: TaskLosses, options: FitOptions) -> None:
        self.losses = losses
        self.options = options
        self.steps = options.steps
        backbone, tasks = losses.backbone, losses.tasks
        backbone.check_room(options.prompt_length)
        device = backbone.device
        sizes = Counter(task.family for task in tasks)
        self.families = [family for family, _ in sizes.most_common()]
        self._family_of = [self.families.index(task.family) for task in tasks]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            decoder = SubspaceDecoder(
                options.intrinsic_dim, options.decoder_hidden, options.prompt_length, backbone.hidden_size
            )
            _start_like_words(decoder, backbone)
            start = VECTOR_START * torch.randn(len(self.families) + len(tasks), options.intrinsic_dim)
        self.decoder = decoder.to(device)
        decoder_group = {"params": list(self.decoder.parameters()), "lr": options.decoder_learning_rate}
        groups = [{**decoder_group, "weight_decay": 1e-4}]
        if losses.constants:
            groups.append({"params": list(losses.constants.values()), "lr": CONSTANTS_RATE, "weight_decay": 0.0})
        self.decoder_optimizer = torch.optim.AdamW(groups)
        # The families' vectors, then each task's difference from its family's. SparseAdam moves those that a step
        # used alone; the others keep their moments.
        self.vectors = nn.Parameter(start.to(device))
        self.vector_optimizer = torch.optim.SparseAdam([self.vectors], lr=options.vector_learning_rate)
        self._base_rates = [group["lr"] for group in self.decoder_optimizer.param_groups]
        self._task_weights = _task_weights([task.family for task in tasks], options.family_balance)

    @property
    def family_vectors(self) -> Tensor:
        """[families, D], in the order of `families`: the largest family first."""
        return self.vectors.detach()[: len(self.families)]

    @property
    def task_vectors(self) -> Tensor:
        """[tasks, D], in the order of `tasks`."""
        return self.family_vectors[self._family_of] + self.vectors.detach()[len(self.families) :]

    @property
    def initial_vectors(self) -> Tensor:
        """[K, D]: the zero vector, then the mean vector of the tasks of each of the largest families."""
        families = torch.tensor(self._family_of)
        means = [self.task_vectors[families == f].mean(dim=0) for f in range(len(self.families))[: MAX_STARTS - 1]]
        return torch.stack([torch.zeros_like(means[0]), *means])

    def step(self) -> FitProgress:
        options = self.options
        rng = np.random.default_rng([options.seed, self.completed])
        size = min(options.tasks_per_step, len(self.losses.tasks))
        chosen = rng.choice(len(self.losses.tasks), size=size, replace=False, p=self._task_weights).tolist()
        drawn = self.losses.draw(chosen, rng)
        prompts = self.decoder(self._draw_vectors(chosen, rng))
        losses, accuracies = self.losses.measure(drawn, prompts)
        loss = losses.mean()
        self._set_learning_rates()
        self.decoder_optimizer.zero_grad(set_to_none=True)
        self.vector_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.decoder.parameters(), options.gradient_clip)
        self.decoder_optimizer.step()
        self.vector_optimizer.step()
        self.completed += 1
        accuracy = None if accuracies is None else accuracies.mean().item()
        return FitProgress(self.completed, self.steps, loss.item(), accuracy)

    def save(self, folder: Path, scores: Mapping[str, float]) -> Subspace:
        training = {
            "method": "direct",
            "options": asdict(self.options),
            **self.losses.record(),
            **self.origin,
            **scores,
        }
        return save_subspace(
            folder,
            self.decoder,
            self.losses.backbone,
            initial_vectors=self.initial_vectors,
            task_vectors=self.task_vectors,
            training=training,
        )

    def _draw_vectors(self, chosen: Sequence[int], rng: np.random.Generator) -> Tensor:
        """[len(chosen), D]: for each task zero, its family's vector, or that and the task's own difference."""
        options = self.options
        slots: list[int] = []
        used: list[int] = []
        for slot, (task, luck) in enumerate(zip(chosen, rng.random(len(chosen)).tolist(), strict=True)):
            if luck >= options.zero_vector_probability:
                slots.append(slot)
                used.append(self._family_of[task])
            if luck >= options.zero_vector_probability + options.family_vector_probability:
                slots.append(slot)
                used.append(len(self.families) + task)
        device = self.vectors.device
        looked_up = F.embedding(torch.tensor(used, dtype=torch.long, device=device), self.vectors, sparse=True)
        vectors = torch.zeros(len(chosen), options.intrinsic_dim, device=device)
        return vectors.index_add(0, torch.tensor(slots, dtype=torch.long, device=device), looked_up)

    def _learned(self) -> dict[str, Tensor]:
        decoder = {f"decoder.{name}": value for name, value in self.decoder.state_dict().items()}
        return {**decoder, "vectors": self.vectors, **self.losses.constants}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"decoder_optimizer": self.decoder_optimizer, "vector_optimizer": self.vector_optimizer}

    def _run_identity(self) -> str:
        options = asdict(self.options)
        options.pop("steps")
        described = repr((sorted(options.items()), self.losses.described(), self.losses.backbone.prompt_identity))
        return hashlib.sha256(described.encode()).hexdigest()

    def _set_learning_rates(self) -> None:
        options = self.options
        decay_steps = max(1, round(options.decay_fraction * options.steps))
        warmup = min(1.0, (self.completed + 1) / max(1, options.warmup_steps))
        decay = min(1.0, (options.steps - self.completed) / decay_steps)
        factor = min(warmup, decay)
        for group, base in zip(self.decoder_optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        self.vector_optimizer.param_groups[0]["lr"] = options.vector_learning_rate * factor


def _task_weights(families: Sequence[str], balance: float) -> NDArray[np.float64]:
    sizes = Counter(families)
    weights = np.array([sizes[family] ** (balance - 1.0) for family in families])
    return np.asarray(weights / weights.sum())


def _start_like_words(decoder: SubspaceDecoder, backbone: Backbone) -> None:
    """Start the decoder's output as word embeddings of the backbone, which its first layer is used to."""
    table = backbone.input_embeddings.weight.detach().float().cpu()
    words = table[torch.randint(table.shape[0] // 20, table.shape[0] // 2, (decoder.prompt_length,))]
    # Vectors of standard deviation 0.3 or more make prompts that differ by the spread of word embeddings.
    spread = 2.0 * float(table.std()) / math.sqrt(decoder.project.in_features)
    with torch.no_grad():
        decoder.project.bias.copy_(words.flatten())
        decoder.project.weight.mul_(spread / float(decoder.project.weight.std()))
