"""What the ways of finding a subspace share: steps that are counted, and a checkpoint to go on from.

All randomness of step s is drawn from (seed, s): a run resumed from a checkpoint goes on as if it had not stopped.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ipt.errors import CheckpointError, SubspaceError
from ipt.runtime.atomic_files import replace_atomically
from ipt.runtime.interrupts import defer_interrupts
from ipt.runtime.process_lock import hold_lock
from ipt.subspace.manifest import MANIFEST_FILE
from ipt.subspace.subspace import Subspace

CHECKPOINT_FILE = "fit.safetensors"
CHECKPOINT_EVERY_STEPS = 50
SMOOTHING = 0.98


@dataclass(frozen=True)
class FitProgress:
    """What one step showed, as means over the step's tasks."""

    step: int
    steps: int
    loss: float
    """Of the tasks, behind the prompts that the decoder made."""
    accuracy: float | None
    """None where a step does not tell."""
    reconstruction: float | None = None
    """Mean squared error of the prompts that an encoder compressed and the decoder made again."""


def is_finished(folder: Path) -> bool:
    """Whether `ResumableFit.run_in` has come to its end in this folder."""
    return (folder / MANIFEST_FILE).is_file() and not (folder / CHECKPOINT_FILE).is_file()


class ResumableFit(ABC):
    """A running fit: make one, call `step` until `done`, then `save`; or `run_in` a folder, which does all of it."""

    steps: int
    completed: int = 0
    means: Mapping[str, float] = {}
    """Smoothed measures of the last steps that `run_in` took, by name."""
    origin: Mapping[str, object] = {}
    """What else the manifest is to tell: the command, what of the tasks was skipped."""
    _asked_before: Sequence[int] = ()
    """Numbers of steps that were asked for before, in runs that left a checkpoint."""

    @property
    def done(self) -> bool:
        return self.completed >= self.steps

    def run_in(self, folder: Path, on_step: Callable[[FitProgress, Mapping[str, float]], None]) -> Subspace:
        """Step until done and save, going on from the folder's checkpoint where it has one; stopped, it leaves one.

        Raises:
            CheckpointError: as `load_checkpoint` does; or another process is at work in the folder.
            SubspaceError: the loss is no finite number any more.
        """
        with hold_lock(folder):
            return self._run_alone_in(folder, on_step)

    def _run_alone_in(self, folder: Path, on_step: Callable[[FitProgress, Mapping[str, float]], None]) -> Subspace:
        checkpoint = folder / CHECKPOINT_FILE
        if checkpoint.is_file():
            self.load_checkpoint(checkpoint)
        try:
            while not self.done:
                # Half a step, or one that is not counted, would be in the checkpoint.
                with defer_interrupts():
                    step = self.step()
                    if not math.isfinite(step.loss):
                        raise SubspaceError(
                            f"the fit diverged: the loss of step {step.step} is {step.loss}. Remove "
                            f"{folder} and try a lower learning rate, or lower weights"
                        )
                    measured = {name: getattr(step, name) for name in ("loss", "accuracy", "reconstruction")}
                    self.means = {
                        name: SMOOTHING * self.means.get(name, value) + (1 - SMOOTHING) * value
                        for name, value in measured.items()
                        if value is not None
                    }
                on_step(step, self.means)
                if step.step % CHECKPOINT_EVERY_STEPS == 0:
                    self.save_checkpoint(checkpoint)
        except KeyboardInterrupt:
            self.save_checkpoint(checkpoint)
            raise
        self.save_checkpoint(checkpoint)
        subspace = self.save(folder, self.means)
        # Until here a kill leaves a checkpoint, beside which a subspace does not count as finished.
        checkpoint.unlink()
        return subspace

    @abstractmethod
    def step(self) -> FitProgress:
        """Draw tasks and rows, take one optimizer step, and say how it went."""

    @abstractmethod
    def save(self, folder: Path, scores: Mapping[str, float]) -> Subspace:
        """Write the subspace as it stands, with `scores` and all that is needed to fit it again in its manifest."""

    @abstractmethod
    def _learned(self) -> dict[str, Tensor]:
        """Everything that is learned, by name: the tensors themselves, not copies."""

    @abstractmethod
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name."""

    @abstractmethod
    def _run_identity(self) -> str:
        """A hash over all that a resumed run must share with the one that wrote the checkpoint: all but `steps`."""

    def save_checkpoint(self, path: Path) -> None:
        """Write everything that `load_checkpoint` needs to go on, replacing `path` in one move."""
        state = {name: value.detach() for name, value in self._learned().items()}
        for label, optimizer in self._optimizers().items():
            for index, moments in optimizer.state_dict()["state"].items():
                for key, value in moments.items():
                    state[f"{label}.{index}.{key}"] = torch.as_tensor(value, dtype=torch.float32)
        means = json.dumps(dict(self.means))
        asked = json.dumps([*self._asked_before, self.steps])
        metadata = {"completed": str(self.completed), "run": self._run_identity(), "means": means, "asked": asked}
        with replace_atomically(path) as temporary:
            save_file({name: value.contiguous().cpu() for name, value in state.items()}, temporary, metadata)

    def load_checkpoint(self, path: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            CheckpointError: when it is damaged, was written by a run with other tasks or options (`steps` may differ),
                or has taken more steps than are asked for.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable checkpoint; remove it to start anew: {error}") from None
        if metadata.get("run") != self._run_identity():
            raise CheckpointError(f"{path}: checkpoint of a fit with other tasks or options; remove it to start anew")
        try:
            completed, means = int(metadata["completed"]), json.loads(metadata.get("means", "{}"))
            asked = json.loads(metadata.get("asked", "[]"))
            with torch.no_grad():
                for name, value in self._learned().items():
                    value.copy_(state[name])
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: a damaged checkpoint; remove it to start anew: {error!r}") from None
        if completed > self.steps:
            raise CheckpointError(
                f"{path}: has taken {completed} steps, and {self.steps} are asked for: ask for more, or remove it to "
                "start anew"
            )
        self.completed, self.means = completed, means
        # A fit that goes on with other steps than it began with is not what its options alone would give.
        self._asked_before = [steps for steps in asked if steps != self.steps]
        if self._asked_before:
            self.origin = {**self.origin, "steps_asked_before": self._asked_before}
        for label, optimizer in self._optimizers().items():
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in state.items():
                if name.startswith(f"{label}."):
                    _, index, key = name.split(".")
                    moments.setdefault(int(index), {})[key] = value
            if isinstance(optimizer, torch.optim.SparseAdam):  # it counts steps in a plain int
                for moment in moments.values():
                    moment["step"] = int(moment["step"])  # type: ignore[assignment]
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
