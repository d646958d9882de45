"""Tiny text backbones, each with an untrained subspace."""

from collections.abc import Callable
from typing import Any

import pytest

import ipt
from ipt.backbones.text_backbone import PromptedTextBackbone
from tests.support.tiny import build_tiny_text


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PromptedTextBackbone, ipt.Subspace]]:
    built: dict[str, tuple[PromptedTextBackbone, ipt.Subspace]] = {}

    def tiny(kind: str) -> tuple[PromptedTextBackbone, ipt.Subspace]:
        if kind not in built:
            folder, subspace = build_tiny_text(tmp_path_factory.mktemp("generation"), kind)
            backbone = ipt.load_backbone(str(folder), device="cpu")
            assert isinstance(backbone, PromptedTextBackbone)
            built[kind] = backbone, ipt.load_subspace(subspace, backbone)
        return built[kind]

    return tiny


@pytest.fixture(params=["gpt2", "llama", "t5", "bart"])
def engine(request: pytest.FixtureRequest, tiny: Any) -> ipt.GenerationEngine:
    return ipt.GenerationEngine(*tiny(request.param))


@pytest.fixture(params=["gpt2", "qwen2"])
def causal(request: pytest.FixtureRequest, tiny: Any) -> ipt.GenerationEngine:
    return ipt.GenerationEngine(*tiny(request.param))
