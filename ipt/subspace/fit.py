"""Multi-task subspace finding, the direct way: one decoder and one vector per task, learned together end to end.

Every step draws a few tasks and a few examples of each, makes each task's soft prompt with the decoder, embeds the
examples behind it, and takes the leave-one-out error of the ridge classifier (`ipt.ridge`) on the readout's features
(`ipt.readout`) as the loss: the subspace is found through what answers at inference.

A task's vector is its family's vector plus a difference of its own. With fixed probabilities a task is given its
family's vector alone, or the zero vector: so the zero vector comes to mean the average task, and a family's vector the
average task of the family. Tuning of a new task starts at one of them.

All randomness of step s is drawn from (seed, s): a run resumed from a checkpoint goes on as if it had not stopped.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.protocol import TokenIds
from ipt.errors import CheckpointError, DatasetError
from ipt.examples import Example, labels_of
from ipt.readout import Embeddings
from ipt.ridge import class_targets, gram, leave_one_out
from ipt.subspace.modules import SubspaceDecoder
from ipt.subspace.store import Subspace, save_subspace
from ipt.task_folder import FolderTask, sample_per_label

VECTOR_START = 0.02
"""Standard deviation that the vectors start with, as in the reference."""

MAX_STARTS = 8
"""Most vectors that tuning may start at: each costs a pass over a new task's examples."""


@dataclass(frozen=True)
class FitOptions:
    """How a subspace is found. The defaults fitted the shipped one."""

    intrinsic_dim: int = 250
    decoder_hidden: int = 384
    prompt_length: int = 16
    steps: int = 3000
    tasks_per_step: int = 3
    rows_per_task: int = 18
    classes_per_task: int = 6
    examples_per_label: int = 128
    """Most examples a label that the fit may see of each task, and never more than half of the label's training rows:
    the others stay for measuring the seen tasks with other data."""
    max_tokens: int = 64
    decoder_learning_rate: float = 1e-3
    vector_learning_rate: float = 1e-2
    warmup_steps: int = 60
    decay_fraction: float = 0.3
    """The learning rate falls linearly to zero over this last part of the steps."""
    label_smoothing: float = 0.05
    gradient_clip: float = 1.0
    zero_vector_probability: float = 0.2
    family_vector_probability: float = 0.4
    family_balance: float = 0.5
    """Families are drawn in proportion to their number of tasks to this power: 1 is uniform over tasks."""
    seed: int = 0


@dataclass(frozen=True)
class FitProgress:
    """What one step showed: the mean leave-one-out loss and accuracy over the step's tasks."""

    step: int
    steps: int
    loss: float
    accuracy: float


@dataclass
class FittingTask:
    """One task's examples as the fit sees them: token ids, classes, and frozen embeddings."""

    name: str
    family: str
    token_ids: list[TokenIds]
    classes: Tensor
    frozen: Tensor
    rows_of_class: list[list[int]] = field(default_factory=list)


class DirectFit:
    """A running fit: make one, call `step` until `done`, then take `decoder` and `task_vectors`."""

    def __init__(self, backbone: EncoderBackbone, tasks: Sequence[FittingTask], options: FitOptions) -> None:
        self.backbone = backbone
        self.tasks = tasks
        self.options = options
        self.completed = 0
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
        # Ridge λ and the scale of the logits.
        self.log_ridge = nn.Parameter(torch.tensor(math.log(0.3), device=device))
        self.log_scale = nn.Parameter(torch.tensor(math.log(8.0), device=device))
        self.decoder_optimizer = torch.optim.AdamW(
            [
                {"params": list(self.decoder.parameters()), "lr": options.decoder_learning_rate, "weight_decay": 1e-4},
                {"params": [self.log_ridge, self.log_scale], "lr": 1e-2, "weight_decay": 0.0},
            ]
        )
        # The families' vectors, then each task's difference from its family's. SparseAdam moves those that a step
        # used alone; the others keep their moments.
        self.vectors = nn.Parameter(start.to(device))
        self.vector_optimizer = torch.optim.SparseAdam([self.vectors], lr=options.vector_learning_rate)
        self._base_rates = [group["lr"] for group in self.decoder_optimizer.param_groups]
        self._task_weights = _task_weights(tasks, options.family_balance)

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

    @property
    def done(self) -> bool:
        return self.completed >= self.options.steps

    def step(self) -> FitProgress:
        """Draw tasks and rows, take one optimizer step, and say how it went."""
        options = self.options
        rng = np.random.default_rng([options.seed, self.completed])
        chosen = rng.choice(len(self.tasks), size=options.tasks_per_step, replace=False, p=self._task_weights)
        batches = [_draw_rows(self.tasks[i], rng, options) for i in chosen]
        vectors = self._draw_vectors(chosen, rng)
        prompts = self.decoder(vectors)
        task_of_row = torch.cat([torch.full((len(rows),), j) for j, (rows, _) in enumerate(batches)])
        token_ids = [self.tasks[i].token_ids[r] for i, (rows, _) in zip(chosen, batches, strict=True) for r in rows]
        embedded = self.backbone.embed(token_ids, prompts[task_of_row.to(prompts.device)])

        losses, correct, start = [], [], 0
        for i, (rows, drawn) in zip(chosen, batches, strict=True):
            prompted = embedded[start : start + len(rows)]
            start += len(rows)
            kernel = gram(Embeddings(prompted, self.tasks[i].frozen[rows].to(prompted)).features())
            classes = drawn.to(kernel.device)
            scores = leave_one_out(kernel, class_targets(classes, int(classes.max()) + 1), self.log_ridge.exp())
            losses.append(
                F.cross_entropy(self.log_scale.exp() * scores, classes, label_smoothing=options.label_smoothing)
            )
            correct.append((scores.argmax(1) == classes).float().mean())
        loss = torch.stack(losses).mean()
        self._set_learning_rates()
        self.decoder_optimizer.zero_grad(set_to_none=True)
        self.vector_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.decoder.parameters(), options.gradient_clip)
        self.decoder_optimizer.step()
        self.vector_optimizer.step()  # type: ignore[no-untyped-call]
        self.completed += 1
        return FitProgress(self.completed, options.steps, loss.item(), torch.stack(correct).mean().item())

    def save(self, folder: Path, scores: dict[str, float]) -> Subspace:
        """Write the subspace as it stands, with `scores` and all that is needed to fit it again in its manifest."""
        training = {
            "method": "direct",
            "options": asdict(self.options),
            "tasks": [task.name for task in self.tasks],
            "families": [task.family for task in self.tasks],
            "readout": {
                "ridge": round(self.log_ridge.exp().item(), 6),
                "scale": round(self.log_scale.exp().item(), 6),
            },
            **scores,
        }
        return save_subspace(
            folder,
            self.decoder,
            self.backbone,
            initial_vectors=self.initial_vectors,
            task_vectors=self.task_vectors,
            training=training,
        )

    def save_checkpoint(self, path: Path) -> None:
        """Write everything that `load_checkpoint` needs to go on, replacing `path` in one move."""
        state = {f"decoder.{name}": value for name, value in self.decoder.state_dict().items()}
        state |= {"vectors": self.vectors.data, "log_ridge": self.log_ridge.data, "log_scale": self.log_scale.data}
        for label, optimizer in self._optimizers():
            for index, moments in optimizer.state_dict()["state"].items():
                for key, value in moments.items():
                    state[f"{label}.{index}.{key}"] = torch.as_tensor(value, dtype=torch.float32)
        metadata = {"completed": str(self.completed), "run": self._run_identity()}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        os.close(handle)
        save_file({name: value.contiguous().cpu() for name, value in state.items()}, temporary, metadata)
        Path(temporary).replace(path)

    def load_checkpoint(self, path: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            CheckpointError: when it was written by a run with other tasks or options. `steps` may differ.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("run") != self._run_identity():
                raise CheckpointError(
                    f"{path}: checkpoint of a fit with other tasks or options; remove it to start anew"
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.completed = int(metadata["completed"])
        self.decoder.load_state_dict(
            {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
        )
        for name in ("vectors", "log_ridge", "log_scale"):
            getattr(self, name).data.copy_(state[name])
        for label, optimizer in self._optimizers():
            blank = optimizer.state_dict()
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in state.items():
                if name.startswith(f"{label}."):
                    _, index, key = name.split(".")
                    moments.setdefault(int(index), {})[key] = value
            if label == "vector_optimizer":  # SparseAdam counts steps in a plain int
                for moment in moments.values():
                    moment["step"] = int(moment["step"])  # type: ignore[assignment]
            optimizer.load_state_dict({"state": moments, "param_groups": blank["param_groups"]})

    def _draw_vectors(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """[len(chosen), D]: for each task zero, its family's vector, or that and the task's own difference."""
        options = self.options
        slots: list[int] = []
        used: list[int] = []
        for slot, (task, luck) in enumerate(zip(chosen.tolist(), rng.random(len(chosen)).tolist(), strict=True)):
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

    def _optimizers(self) -> list[tuple[str, torch.optim.Optimizer]]:
        return [("decoder_optimizer", self.decoder_optimizer), ("vector_optimizer", self.vector_optimizer)]

    def _run_identity(self) -> str:
        options = asdict(self.options)
        options.pop("steps")
        data = [(t.name, t.family, t.token_ids, t.classes.tolist()) for t in self.tasks]
        described = repr((sorted(options.items()), data, self.backbone.identity.weights_sha256))
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


def prepare_tasks(
    backbone: EncoderBackbone,
    tasks: Sequence[FolderTask],
    options: FitOptions,
    on_task: Callable[[int, int], None] | None = None,
) -> list[FittingTask]:
    """Sample, tokenize and embed (frozen) the examples that the fit may see; `on_task(done, total)` after each."""
    prepared = []
    for number, task in enumerate(tasks, start=1):
        examples = _examples_for_fit(task, options)
        labels = labels_of(examples)
        classes = torch.tensor([labels.index(example.output) for example in examples])
        rows_of_class = [torch.nonzero(classes == c).flatten().tolist() for c in range(len(labels))]
        if min(map(len, rows_of_class)) < 2:
            raise DatasetError(f"{task.name}: the fit needs at least two training rows of every label")
        token_ids = backbone.tokenize([example.input for example in examples], max_tokens=options.max_tokens)
        with torch.inference_mode():
            frozen = backbone.embed(token_ids, None)
        prepared.append(FittingTask(task.name, task.family, token_ids, classes, frozen.clone(), rows_of_class))
        if on_task:
            on_task(number, len(tasks))
    return prepared


def _examples_for_fit(task: FolderTask, options: FitOptions) -> list[Example]:
    """The part of a task's training rows that the fit may see."""
    counts = Counter(example.output for example in task.train)
    allowed = {label: min(options.examples_per_label, max(2, count // 2)) for label, count in counts.items()}
    examples = []
    for example in sample_per_label(task.train, max(allowed.values()), options.seed):
        if allowed[example.output] > 0:
            allowed[example.output] -= 1
            examples.append(example)
    return examples


def _draw_rows(task: FittingTask, rng: np.random.Generator, options: FitOptions) -> tuple[list[int], Tensor]:
    """Rows of some of a task's classes, equally many of each, and their classes renumbered from 0."""
    num_classes = min(len(task.rows_of_class), options.classes_per_task)
    per_class = max(2, options.rows_per_task // num_classes)
    rows: list[int] = []
    classes: list[int] = []
    for number, c in enumerate(rng.choice(len(task.rows_of_class), size=num_classes, replace=False)):
        drawn = rng.permutation(task.rows_of_class[c])[:per_class].tolist()
        rows += drawn
        classes += [number] * len(drawn)
    return rows, torch.tensor(classes)


def _task_weights(tasks: Sequence[FittingTask], balance: float) -> NDArray[np.float64]:
    sizes = {family: sum(t.family == family for t in tasks) for family in {t.family for t in tasks}}
    weights = np.array([sizes[task.family] ** (balance - 1.0) for task in tasks])
    return np.asarray(weights / weights.sum())


def _start_like_words(decoder: SubspaceDecoder, backbone: EncoderBackbone) -> None:
    """Start the decoder's output as word embeddings of the backbone, which its first layer is used to."""
    table = backbone.model.get_input_embeddings().weight.detach().float().cpu()  # type: ignore[operator]
    words = table[torch.randint(table.shape[0] // 20, table.shape[0] // 2, (decoder.prompt_length,))]
    # Vectors of standard deviation 0.3 or more make prompts that differ by the spread of word embeddings.
    spread = 2.0 * float(table.std()) / math.sqrt(decoder.project.in_features)
    with torch.no_grad():
        decoder.project.bias.copy_(words.flatten())
        decoder.project.weight.mul_(spread / float(decoder.project.weight.std()))
