"""Multi-task subspace finding as in the paper: an auto-encoder over tuned soft prompts.

Each step draws a few tasks, compresses a tuned prompt of each task and reconstructs it. The loss is the reconstruction
error plus the tasks' loss with the reconstructed prompts (`ipt.fitting.task_losses`), so that the decoder keeps what
the tasks need.

Source: arXiv 2110.07867, section 3.2, and the authors' code for its constants. Letters: N tasks, J tasks in a step,
D intrinsic dimension, P prompt length, H hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ipt.errors import DatasetError
from ipt.fitting.direct_fit import CONSTANTS_RATE
from ipt.fitting.fit_rows import RowOptions
from ipt.fitting.resumable_fit import FitProgress, ResumableFit
from ipt.fitting.task_losses import TaskLosses
from ipt.subspace.prompt_decoder import SubspaceDecoder, SubspaceEncoder
from ipt.subspace.store import save_subspace
from ipt.subspace.subspace import Subspace
from ipt.tuning.optimizer import scheduled_rate


@dataclass(frozen=True)
class AutoencoderOptions(RowOptions):
    """How an auto-encoder is trained. Weights, widths and clipping are the paper's.

    `steps` and `learning_rate` suit a few dozen short prompts. The paper trains 100,000 steps of 64 rows at 3e-5 for
    100 prompts of 100 × 768.
    """

    intrinsic_dim: int = 250
    decoder_hidden: int = 768
    steps: int = 2000
    learning_rate: float = 1e-4
    gradient_clip: float = 0.1
    reconstruction_weight: float = 200.0
    task_weight: float = 1.0


class AutoencoderFit(ResumableFit):
    """Trains `encoder` and `decoder`.

    Args:
        losses: the tasks.
        prompts: [P, H] each, by the name of their task. More prompts of a task are named `task#anything`; each step
            draws one of them.
        options: of the training.

    Raises:
        DatasetError: a task has no prompt, a prompt has no task, or the prompts differ in shape.
    """

    def __init__(self, losses: TaskLosses, prompts: Mapping[str, Tensor], options: AutoencoderOptions) -> None:
        self.losses = losses
        self.options = options
        self.steps = options.steps
        device = losses.backbone.device
        grouped = _prompts_of_tasks([task.name for task in losses.tasks], prompts)
        self.prompts = [torch.stack(group).float().to(device) for group in grouped]
        """The prompts of each task: [number of prompts, P, H]."""
        _, length, width = self.prompts[0].shape
        losses.backbone.check_room(length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            encoder = SubspaceEncoder(options.intrinsic_dim, length, width)
            decoder = SubspaceDecoder(options.intrinsic_dim, options.decoder_hidden, length, width)
        # Starting at the mean prompt leaves only the differences between prompts to learn.
        with torch.no_grad():
            decoder.project.bias.copy_(torch.cat(self.prompts).mean(dim=0).flatten())
        self.encoder, self.decoder = encoder.to(device), decoder.to(device)
        # Without weight decay, as in the reference implementation.
        groups = [{"params": self._autoencoder(), "lr": options.learning_rate}]
        if losses.constants:
            groups.append({"params": list(losses.constants.values()), "lr": CONSTANTS_RATE})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    @torch.no_grad()
    def task_vectors(self) -> Tensor:
        """[N, D]: for each task the mean of its compressed prompts."""
        return torch.stack([self.encoder(group).mean(dim=0) for group in self.prompts])

    def step(self) -> FitProgress:
        options = self.options
        rng = np.random.default_rng([options.seed, self.completed])
        chosen = rng.permutation(len(self.prompts))[: options.tasks_per_step].tolist()
        tuned = torch.stack([self.prompts[task][int(rng.integers(len(self.prompts[task])))] for task in chosen])
        drawn = self.losses.draw(chosen, rng)
        reconstructed = self.decoder(self.encoder(tuned))
        reconstruction = F.mse_loss(reconstructed, tuned)
        losses, accuracies = self.losses.measure(drawn, reconstructed)
        loss = losses.mean()
        total = options.reconstruction_weight * reconstruction + options.task_weight * loss
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = scheduled_rate(base, self.completed, options.steps)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self._autoencoder(), options.gradient_clip)
        self.optimizer.step()
        self.completed += 1
        accuracy = None if accuracies is None else accuracies.mean().item()
        return FitProgress(self.completed, self.steps, loss.item(), accuracy, reconstruction.item())

    def save(self, folder: Path, scores: Mapping[str, float]) -> Subspace:
        """Save the subspace with its encoder. Its initial vector is the mean of the tasks' vectors."""
        fit = {"method": "autoencoder", "options": asdict(self.options)}
        training = {**fit, **self.losses.record(), **self.origin, **scores}
        vectors = self.task_vectors
        return save_subspace(
            folder,
            self.decoder,
            self.losses.backbone,
            initial_vectors=vectors.mean(dim=0, keepdim=True),
            encoder=self.encoder,
            task_vectors=vectors,
            training=training,
        )

    def _autoencoder(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def _learned(self) -> dict[str, Tensor]:
        modules = {"encoder": self.encoder, "decoder": self.decoder}
        weights = {f"{m}.{name}": value for m, module in modules.items() for name, value in module.state_dict().items()}
        return {**weights, **self.losses.constants}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self.optimizer}

    def _run_identity(self) -> str:
        options = asdict(self.options)
        options.pop("steps")
        described = (sorted(options.items()), self.losses.described(), self.losses.backbone.prompt_identity)
        digest = hashlib.sha256(repr(described).encode())
        for group in self.prompts:
            digest.update(repr(list(group.shape)).encode() + group.cpu().numpy().tobytes())
        return digest.hexdigest()


def _prompts_of_tasks(tasks: Sequence[str], prompts: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """Return the prompts of each task, after checking that their shapes are equal."""
    grouped: dict[str, list[Tensor]] = {task: [] for task in tasks}
    for name, prompt in sorted(prompts.items()):
        task = name if name in grouped else name.rpartition("#")[0]
        if task not in grouped:
            raise DatasetError(f"prompt {name!r} has no task: remove it, or add its task")
        grouped[task].append(prompt)
    without = [task for task, group in grouped.items() if not group]
    if without:
        raise DatasetError(
            f"no prompt for task {without[0]!r} (missing for {len(without)} tasks): tune one, or remove the task"
        )
    shapes = {tuple(prompt.shape): name for name, prompt in prompts.items()}
    if len(shapes) > 1:
        (shape, first), (other_shape, second) = list(shapes.items())[:2]
        raise DatasetError(f"prompts differ in shape: {first!r} is {list(shape)}, {second!r} is {list(other_shape)}")
    return list(grouped.values())
