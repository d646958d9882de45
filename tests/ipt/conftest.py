"""A tiny encoder with an untrained subspace, and few-shot data of words it knows."""

import os
from pathlib import Path

import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.subspace.modules import SubspaceDecoder
from tests.tiny import build_tiny_encoder
from tests.tuned import keep_tuned  # noqa: F401, a fixture

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing by threads, which wait for each other where tests, or services, run side by side.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

POSITIVE = ["good movie", "great food i love it", "fine place and happy staff", "i like the new phone", "love this app"]
NEGATIVE = ["bad movie", "awful food i hate it", "the room is sad and slow", "the old phone is broken", "hate this app"]
BILLING = [
    "charged twice on my card",
    "refund the invoice please",
    "money paid twice",
    "bill is not right",
    "card error",
]


def sentiment(repeats: int = 2) -> list[ipt.Example]:
    """Two labels, ten examples for each repeat."""
    rows = [(text, "positive") for text in POSITIVE] + [(text, "negative") for text in NEGATIVE]
    return [ipt.Example(f"{text} {'really ' * turn}".strip(), label) for turn in range(repeats) for text, label in rows]


def topics() -> list[ipt.Example]:
    """Three labels, five examples each, of other lengths than `sentiment`."""
    return [
        ipt.Example(f"hello , {text} , thanks", label)
        for label, texts in (("praise", POSITIVE), ("complaint", NEGATIVE), ("billing", BILLING))
        for text in texts
    ]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderBackbone:
    backbone = ipt.load_backbone(str(build_tiny_encoder(tmp_path_factory.mktemp("core") / "encoder")), device="cpu")
    assert isinstance(backbone, EncoderBackbone)
    return backbone


@pytest.fixture(scope="session")
def subspace_dir(tmp_path_factory: pytest.TempPathFactory, encoder: EncoderBackbone) -> Path:
    folder = tmp_path_factory.mktemp("core") / "subspace"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        decoder = SubspaceDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32)
        starts = torch.cat([torch.zeros(1, 8), 0.5 * torch.randn(3, 8)])
    ipt.save_subspace(folder, decoder, encoder, initial_vectors=starts)
    return folder


@pytest.fixture(scope="session")
def subspace(subspace_dir: Path, encoder: EncoderBackbone) -> ipt.Subspace:
    return ipt.load_subspace(subspace_dir, encoder)
