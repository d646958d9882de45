"""A tiny backbone of each type that writes text."""

import pytest

import ipt
from ipt.backbones.interface import TextBackbone
from tests.support.tiny import build_tiny_causal, build_tiny_seq2seq


@pytest.fixture(scope="session", params=["bart", "t5", "gpt2", "llama"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextBackbone:
    folder = tmp_path_factory.mktemp(request.param)
    build = build_tiny_seq2seq if request.param in ("bart", "t5") else build_tiny_causal
    backbone = ipt.load_backbone(str(build(folder, request.param)), device="cpu")
    assert isinstance(backbone, TextBackbone)
    return backbone
