"""Base of the fits that find a subspace: counts steps, and resumes from a checkpoint.

All randomness of step s is drawn from (seed, s), so a resumed run gives the same result as an uninterrupted one.
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
    """The measures of one step, as means over its tasks."""

    step: int
    steps: int
    loss: float
    """The tasks' loss with the decoded prompts."""
    accuracy: float | None
    """None if the fit does not measure it."""
    reconstruction: float | None = None
    """Mean squared error of the reconstructed prompts; None without an encoder."""


def is_finished(folder: Path) -> bool:
    """Return whether `ResumableFit.run_in` has finished in this folder."""
    return (folder / MANIFEST_FILE).is_file() and not (folder / CHECKPOINT_FILE).is_file()


class ResumableFit(ABC):
    """A fit: call `step` until `done`, then `save`; or `run_in`, which does both and keeps checkpoints."""

    steps: int
    completed: int = 0
    means: Mapping[str, float] = {}
    """Exponential moving averages of the measures of the steps that `run_in` took, by name."""
    origin: Mapping[str, object] = {}
    """Additional entries for the manifest, such as the command and the skipped rows."""
    _earlier_steps: Sequence[int] = ()
    """Other values of `steps` that interrupted runs of this fit had."""

    @property
    def done(self) -> bool:
        return self.completed >= self.steps

    def run_in(self, folder: Path, on_step: Callable[[FitProgress, Mapping[str, float]], None]) -> Subspace:
        """Step until done, and save. Resumes from the folder's checkpoint, and leaves one if it is interrupted.

        Raises:
            CheckpointError: as in `load_checkpoint`, or another process uses the folder.
            SubspaceError: the loss became infinite or NaN.
        """
        with hold_lock(folder):
            return self._run_locked(folder, on_step)

    def _run_locked(self, folder: Path, on_step: Callable[[FitProgress, Mapping[str, float]], None]) -> Subspace:
        checkpoint = folder / CHECKPOINT_FILE
        if checkpoint.is_file():
            self.load_checkpoint(checkpoint)
        try:
            while not self.done:
                # An interrupt within a step would put a partial or an uncounted step into the checkpoint.
                with defer_interrupts():
                    step = self.step()
                    if not math.isfinite(step.loss):
                        raise SubspaceError(
                            f"the fit diverged: the loss of step {step.step} is {step.loss}. Remove "
                            f"{folder} and try a lower learning rate or lower loss weights"
                        )
                    measures = {name: getattr(step, name) for name in ("loss", "accuracy", "reconstruction")}
                    self.means = {
                        name: SMOOTHING * self.means.get(name, value) + (1 - SMOOTHING) * value
                        for name, value in measures.items()
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
        # Last, so that a subspace that was not saved completely never counts as finished.
        checkpoint.unlink()
        return subspace

    @abstractmethod
    def step(self) -> FitProgress:
        """Draw tasks and rows, take one optimizer step, and return its measures."""

    @abstractmethod
    def save(self, folder: Path, scores: Mapping[str, float]) -> Subspace:
        """Save the current subspace; its manifest has `scores` and everything needed to fit it again."""

    @abstractmethod
    def _learned(self) -> dict[str, Tensor]:
        """Return everything that is trained, by name: the tensors themselves, not copies."""

    @abstractmethod
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by name."""

    @abstractmethod
    def _run_identity(self) -> str:
        """Return a hash of everything that a resumed run must share with the interrupted one: all except `steps`."""

    def save_checkpoint(self, path: Path) -> None:
        """Write everything that `load_checkpoint` needs, replacing `path` atomically."""
        state = {name: value.detach() for name, value in self._learned().items()}
        for label, optimizer in self._optimizers().items():
            for index, moments in optimizer.state_dict()["state"].items():
                for key, value in moments.items():
                    state[f"{label}.{index}.{key}"] = torch.as_tensor(value, dtype=torch.float32)
        means = json.dumps(dict(self.means))
        requested_steps = json.dumps([*self._earlier_steps, self.steps])
        metadata = {
            "completed": str(self.completed),
            "run": self._run_identity(),
            "means": means,
            "asked": requested_steps,
        }
        with replace_atomically(path) as temporary:
            save_file({name: value.contiguous().cpu() for name, value in state.items()}, temporary, metadata)

    def load_checkpoint(self, path: Path) -> None:
        """Resume from a checkpoint of the same run; `steps` may differ.

        Raises:
            CheckpointError: it is damaged, was written by a run with other tasks or options, or has more than `steps`
                steps.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable checkpoint; remove it to start again: {error}") from None
        if metadata.get("run") != self._run_identity():
            raise CheckpointError(f"{path}: checkpoint of a fit with other tasks or options; remove it to start again")
        try:
            completed, means = int(metadata["completed"]), json.loads(metadata.get("means", "{}"))
            requested_steps = json.loads(metadata.get("asked", "[]"))
            with torch.no_grad():
                for name, value in self._learned().items():
                    value.copy_(state[name])
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{path}: a damaged checkpoint; remove it to start again: {error!r}") from None
        if completed > self.steps:
            raise CheckpointError(
                f"{path}: has {completed} steps, more than the {self.steps} requested: request more, or remove it to "
                "start again"
            )
        self.completed, self.means = completed, means
        # The learning rate depends on `steps`, so the options alone do not reproduce this fit.
        self._earlier_steps = [steps for steps in requested_steps if steps != self.steps]
        if self._earlier_steps:
            self.origin = {**self.origin, "steps_asked_before": self._earlier_steps}
        for label, optimizer in self._optimizers().items():
            moments: dict[int, dict[str, Tensor | int]] = {}
            for name, value in state.items():
                if name.startswith(f"{label}."):
                    _, index, key = name.split(".")
                    moments.setdefault(int(index), {})[key] = value
            if isinstance(optimizer, torch.optim.SparseAdam):  # its step count is an int
                for moment in moments.values():
                    moment["step"] = int(moment["step"])
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
