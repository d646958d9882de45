"""Tiny backbones, and an untrained subspace for the encoder."""

import os
from pathlib import Path

import pytest
import torch

import ipt
import tests.support.any_machine  # noqa: F401, for its effect
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.interface import TextBackbone
from ipt.subspace.prompt_decoder import SubspaceDecoder
from tests.support.tiny import build_tiny_causal, build_tiny_encoder, build_tiny_seq2seq
from tests.support.tuned import keep_tuned  # noqa: F401, a fixture

os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models are no faster with threads, which compete with tests and services that run in parallel.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderBackbone:
    backbone = ipt.load_backbone(str(build_tiny_encoder(tmp_path_factory.mktemp("core") / "encoder")), device="cpu")
    assert isinstance(backbone, EncoderBackbone)
    return backbone


@pytest.fixture(scope="session", params=["bart", "t5", "gpt2", "llama"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextBackbone:
    """A tiny backbone of each type that writes text."""
    folder = tmp_path_factory.mktemp(request.param)
    build = build_tiny_seq2seq if request.param in ("bart", "t5") else build_tiny_causal
    backbone = ipt.load_backbone(str(build(folder, request.param)), device="cpu")
    assert isinstance(backbone, TextBackbone)
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
