"""Tiny backbones of each supported model type, built once and loaded from files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipt.backbones import batching
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.loading import load_backbone
from ipt.backbones.text_backbone import PromptedTextBackbone
from tests.support.tiny import build_tiny_causal, build_tiny_encoder, build_tiny_seq2seq

os.environ["HF_HUB_OFFLINE"] = "1"

ENCODERS = ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta")
SEQ2SEQ = ("bart", "t5")
CAUSAL = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny model of a given type. Tests must not write to it."""
    built: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in built:
            path = tmp_path_factory.mktemp("tiny") / kind
            build: Any = (
                build_tiny_encoder if kind in ENCODERS else build_tiny_seq2seq if kind in SEQ2SEQ else build_tiny_causal
            )
            built[kind] = build(path, kind)
        return built[kind]

    return folder


@pytest.fixture(params=ENCODERS, scope="session")
def encoder(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> EncoderBackbone:
    backbone = load_backbone(str(tiny_folder(request.param)), device="cpu")
    assert isinstance(backbone, EncoderBackbone)
    return backbone


@pytest.fixture(params=SEQ2SEQ + CAUSAL, scope="session")
def text_backbone(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> PromptedTextBackbone:
    backbone = load_backbone(str(tiny_folder(request.param)), device="cpu")
    assert isinstance(backbone, PromptedTextBackbone)
    return backbone


@pytest.fixture
def one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put all rows into one batch, with any amount of padding."""
    monkeypatch.setattr(batching, "CPU_BUCKETS", (1_000_000, 1.0, 0))
