"""A job's resumable state: vectors, moments and the best vectors so far, as a few kilobytes of safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ipt.errors import CheckpointError, SubspaceMismatchError
from ipt.tuning.work_units import LaneState

FORMAT = "ipt-tuning-2"
_TENSORS = ("vectors", "first_moments", "second_moments", "averages", "best_vectors", "starts")


@dataclass
class TuningState:
    """All state that changes while a job is tuned. Letters: R restarts, L lanes, D intrinsic dimension."""

    lanes: LaneState
    starts: Tensor
    """[L, D]: the vectors of step 0."""
    best_vectors: Tensor
    """[L, D]: the averages of each restart's best validation."""
    best_losses: list[float]
    """[R]: the loss of each restart's best validation."""
    best_step: int = 0
    """Step of the newest validation that was a restart's best."""
    validated_step: int = -1
    stale_validations: int = 0
    """Validations since the last one that was a restart's best."""

    @classmethod
    def start(cls, starts: Tensor, lanes_per_restart: int = 1) -> TuningState:
        """Return the state of step 0: all lanes of a restart are at its row of `starts` [R, D]."""
        vectors = starts.repeat_interleave(lanes_per_restart, dim=0)
        lanes = LaneState(vectors.clone(), torch.zeros_like(vectors), torch.zeros_like(vectors), vectors.clone())
        return cls(lanes, vectors.clone(), vectors.clone(), [float("inf")] * len(starts))

    def to_bytes(self, subspace_id: str, job_digest: str) -> bytes:
        """Return safetensors that name the subspace and the job."""
        tensors = {
            "vectors": self.lanes.vectors,
            "first_moments": self.lanes.first_moments,
            "second_moments": self.lanes.second_moments,
            "averages": self.lanes.averages,
            "best_vectors": self.best_vectors,
            "starts": self.starts,
        }
        record = {
            "format": FORMAT,
            "subspace_id": subspace_id,
            "job": job_digest,
            "step": self.lanes.step,
            "best_losses": [repr(loss) for loss in self.best_losses],
            "best_step": self.best_step,
            "validated_step": self.validated_step,
            "stale_validations": self.stale_validations,
        }
        data: bytes = save_safetensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"state": json.dumps(record)},
        )
        return data

    @classmethod
    def from_bytes(
        cls, data: bytes, subspace_id: str, job_digest: str, shape: tuple[int, int], device: torch.device
    ) -> TuningState:
        """Read the bytes of `to_bytes` for the same subspace and job.

        Raises:
            SubspaceMismatchError: the state belongs to another subspace.
            CheckpointError: the state is damaged, or belongs to another job.
        """
        try:
            tensors = load_safetensors(data)
            header_length = int.from_bytes(data[:8], "little")
            record = json.loads(json.loads(data[8 : 8 + header_length])["__metadata__"]["state"])
            state_subspace, state_job = record["subspace_id"], record["job"]
            losses = [float(loss) for loss in record["best_losses"]]
            counts = ("step", "best_step", "validated_step", "stale_validations")
            step, best_step, validated, stale = (int(record[name]) for name in counts)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the tuning state is not readable: {error}") from None
        if state_subspace != subspace_id:
            raise SubspaceMismatchError(f"the tuning state belongs to subspace {state_subspace}, not {subspace_id}")
        if state_job != job_digest:
            raise CheckpointError("the tuning state belongs to a job with other examples or hyperparameters")
        for name in _TENSORS:
            tensor = tensors.get(name)
            if tensor is None or tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} of the tuning state must be finite and have shape {list(shape)}")
        vectors, first, second, averages, best, starts = (tensors[name].to(device, torch.float32) for name in _TENSORS)
        lanes = LaneState(vectors, first, second, averages, step)
        return cls(lanes, starts, best, losses, best_step, validated, stale)
