"""Direct multi-task subspace finding: one decoder and one vector per task, trained together end to end.

Each step draws a few tasks and a few examples of each task, decodes each task's soft prompt, and computes the tasks'
loss with it (`ipt.fitting.task_losses`). It works on every family of backbones.

A task's vector is its family's vector plus a difference. With fixed probabilities a step uses only the family's vector,
or the zero vector, for a task. So the zero vector stands for the average task, and a family's vector for the average
task of the family. Tuning of a new task starts at one of these vectors.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ipt.backbones.interface import Backbone
from ipt.fitting.fit_rows import RowOptions
from ipt.fitting.resumable_fit import FitProgress, ResumableFit
from ipt.fitting.task_losses import TaskLosses
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace

VECTOR_START = 0.02
"""Standard deviation of the vectors before training, as in the reference implementation."""

CONSTANTS_RATE = 1e-2
"""Learning rate of the constants of the tasks' loss, which are trained with the subspace."""

MAX_STARTS = 8
"""Most initial vectors of a subspace: each costs a pass over a new task's examples."""


@dataclass(frozen=True)
class FitOptions(RowOptions):
    """How a subspace is fitted."""

    intrinsic_dim: int = 250
    decoder_hidden: int = 384
    prompt_length: int = 16
    steps: int = 4500
    decoder_learning_rate: float = 1e-3
    vector_learning_rate: float = 1e-2
    bias_learning_rate: float | None = None
    """Learning rate of the decoder's output bias, the part of a prompt that all tasks share; None: the decoder's."""
    warmup_steps: int = 60
    decay_fraction: float = 0.3
    """The learning rate decays linearly to zero over this last fraction of the steps."""
    gradient_clip: float = 1.0
    zero_vector_probability: float = 0.2
    family_vector_probability: float = 0.4
    family_balance: float = 0.5
    """A family is drawn with a probability proportional to its number of tasks to this power; 1: uniform over tasks."""


class DirectFit(ResumableFit):
    """Trains `decoder` and `task_vectors`."""

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
            vectors = VECTOR_START * torch.randn(len(self.families) + len(tasks), options.intrinsic_dim)
        self.decoder = decoder.to(device)
        rate, bias = options.decoder_learning_rate, self.decoder.project.bias
        others = [parameter for parameter in self.decoder.parameters() if parameter is not bias]
        groups: list[dict[str, Any]] = [
            {"params": others, "lr": rate, "weight_decay": 1e-4},
            {"params": [bias], "lr": options.bias_learning_rate or rate, "weight_decay": 1e-4},
        ]
        if losses.constants:
            groups.append({"params": list(losses.constants.values()), "lr": CONSTANTS_RATE, "weight_decay": 0.0})
        self.decoder_optimizer = torch.optim.AdamW(groups)
        # The families' vectors, then each task's difference from its family's vector. SparseAdam updates only the rows
        # that a step uses, and leaves the moments of all other rows.
        self.vectors = nn.Parameter(vectors.to(device))
        self.vector_optimizer = torch.optim.SparseAdam([self.vectors], lr=options.vector_learning_rate)
        self._base_rates = [group["lr"] for group in self.decoder_optimizer.param_groups]
        self._task_weights = _task_weights([task.family for task in tasks], options.family_balance)

    @property
    def family_vectors(self) -> Tensor:
        """[families, D], in the order of `families`, the largest family first."""
        return self.vectors.detach()[: len(self.families)]

    @property
    def task_vectors(self) -> Tensor:
        """[tasks, D], in the order of `tasks`."""
        return self.family_vectors[self._family_of] + self.vectors.detach()[len(self.families) :]

    @property
    def initial_vectors(self) -> Tensor:
        """[K, D]: the zero vector, then the mean task vector of each of the largest families."""
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
        """Return [J, D]: for each task the zero vector, its family's vector, or its own vector."""
        options = self.options
        slots: list[int] = []
        rows: list[int] = []
        for slot, (task, draw) in enumerate(zip(chosen, rng.random(len(chosen)).tolist(), strict=True)):
            if draw >= options.zero_vector_probability:
                slots.append(slot)
                rows.append(self._family_of[task])
            if draw >= options.zero_vector_probability + options.family_vector_probability:
                slots.append(slot)
                rows.append(len(self.families) + task)
        device = self.vectors.device
        looked_up = F.embedding(torch.tensor(rows, dtype=torch.long, device=device), self.vectors, sparse=True)
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


def spread_of_words(backbone: Backbone, prompt: Tensor) -> Tensor:
    """Return how much prompts of words vary [P · H]: the standard deviation of each number of the flattened prompt.

    In the input it is that of the embeddings; in layers, that of the layer's keys and that of its values in
    `prompt` [P, H], which is made of words.
    """
    if backbone.prompted_layers:
        parts = prompt.flatten().tensor_split(2 * backbone.prompted_layers)
        return torch.cat([part.std().expand(part.numel()) for part in parts])
    return backbone.input_embeddings.weight.detach().float().std().cpu().expand(prompt.numel())


def _start_like_words(decoder: SubspaceDecoder, backbone: Backbone) -> None:
    """Initialize the decoder's output to prompts that read as words, the input that the backbone was trained on."""
    vocabulary = backbone.input_embeddings.num_embeddings
    words = torch.randint(vocabulary // 20, vocabulary // 2, (backbone.prompt_words(decoder.prompt_length),))
    prompt = backbone.prompts_of_tokens(words[None])[0].detach().float().cpu()
    # With vectors of standard deviation 0.3 or more, prompts differ as much as those of words do.
    scale = 2.0 * spread_of_words(backbone, prompt) / math.sqrt(decoder.project.in_features)
    with torch.no_grad():
        decoder.project.bias.copy_(prompt.flatten())
        decoder.project.weight.mul_((scale / float(decoder.project.weight.std()))[:, None])
