"""LitServe with the same backbone, one task and batching: `python -m benchmarks.engines.litserve_peer PORT TASK`.

TASK is a safetensors file with the prompt [P, H], the readout's weights [C, 2H] and its bias [C]. The backbone reads a
text twice, with and without the prompt, as in the service.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

import ipt
from ipt.backbones.encoder import EncoderBackbone

BATCH_ROWS, BATCH_SECONDS = 64, 0.003


class OneTask(litserve.LitAPI):
    """Predicts batches of texts, padded to the longest."""

    def __init__(self, task: Path) -> None:
        super().__init__(max_batch_size=BATCH_ROWS, batch_timeout=BATCH_SECONDS)
        self.task_file = task

    def setup(self, device: str) -> None:
        backbone = ipt.load_backbone(device=device)
        assert isinstance(backbone, EncoderBackbone)
        self.backbone = backbone
        self.parts = load_file(self.task_file)

    def decode_request(self, request: dict[str, Any]) -> str:
        return str(request["input"])

    def batch(self, inputs: Sequence[str]) -> list[str]:
        return list(inputs)

    def unbatch(self, output: Tensor) -> list[list[float]]:
        return output.tolist()

    @torch.inference_mode()
    def predict(self, x: list[str]) -> Tensor:
        encoded = self.backbone.tokenizer(x, padding=True, truncation=True, max_length=256, return_tensors="pt")
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        words = self.backbone.model.get_input_embeddings()(ids)
        prompt = self.parts["prompt"].expand(len(x), -1, -1)
        behind = torch.cat([words[:, :1], prompt, words[:, 1:]], dim=1)
        longer = torch.cat([mask[:, :1], mask.new_ones(prompt.shape[:2]), mask[:, 1:]], dim=1)
        counted = torch.cat([mask[:, :1], mask.new_zeros(prompt.shape[:2]), mask[:, 1:]], dim=1)
        features = torch.cat([self._pooled(behind, longer, counted), self._pooled(words, mask, mask)], dim=1)
        return (features @ self.parts["weights"].mT + self.parts["bias"]).softmax(dim=1)

    def _pooled(self, embeds: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
        hidden = self.backbone.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        return normalize((hidden * counted[..., None]).sum(dim=1), dim=1)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"scores": output}


if __name__ == "__main__":
    server = litserve.LitServer(OneTask(Path(sys.argv[2])), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
