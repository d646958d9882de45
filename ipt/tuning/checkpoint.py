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

FORMAT = "ipt-tuning-1"


@dataclass
class TuningState:
    """All state that changes while a job is tuned. Letters: L lanes (restarts), D intrinsic dimension."""

    lanes: LaneState
    best_vectors: Tensor
    """[L, D]: the average of lowest validation loss in each lane."""
    best_losses: list[float]
    validated_step: int = -1
    stale_validations: int = 0
    """Validations since the last one that improved a lane."""

    @classmethod
    def start(cls, vectors: Tensor) -> TuningState:
        """Return the state of step 0 at `vectors` [L, D]."""
        lanes = LaneState(vectors.clone(), torch.zeros_like(vectors), torch.zeros_like(vectors), vectors.clone())
        return cls(lanes, vectors.clone(), [float("inf")] * vectors.shape[0])

    def to_bytes(self, subspace_id: str, job_digest: str) -> bytes:
        """Return safetensors that name the subspace and the job."""
        tensors = {
            "vectors": self.lanes.vectors,
            "first_moments": self.lanes.first_moments,
            "second_moments": self.lanes.second_moments,
            "averages": self.lanes.averages,
            "best_vectors": self.best_vectors,
        }
        record = {
            "format": FORMAT,
            "subspace_id": subspace_id,
            "job": job_digest,
            "step": self.lanes.step,
            "best_losses": [repr(loss) for loss in self.best_losses],
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
            step, validated, stale = (int(record[k]) for k in ("step", "validated_step", "stale_validations"))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the tuning state is not readable: {error}") from None
        if state_subspace != subspace_id:
            raise SubspaceMismatchError(f"the tuning state belongs to subspace {state_subspace}, not {subspace_id}")
        if state_job != job_digest:
            raise CheckpointError("the tuning state belongs to a job with other examples or hyperparameters")
        names = ("vectors", "first_moments", "second_moments", "averages", "best_vectors")
        for name in names:
            tensor = tensors.get(name)
            if tensor is None or tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
                raise CheckpointError(f"{name} of the tuning state must be finite and have shape {list(shape)}")
        vectors, first, second, averages, best = (tensors[name].to(device, torch.float32) for name in names)
        return cls(LaneState(vectors, first, second, averages, step), best, losses, validated, stale)
