"""Outputs that a tokenizer cannot write back are counted, and the lost characters are named."""

from pathlib import Path

import pytest

import ipt
from ipt.backbones.writable_outputs import unwritable_outputs_warning
from tests.support.tiny import build_tiny_encoder, build_tiny_seq2seq


@pytest.fixture(scope="module")
def text_backbone(tmp_path_factory: pytest.TempPathFactory) -> ipt.Backbone:
    return ipt.load_backbone(str(build_tiny_seq2seq(tmp_path_factory.mktemp("t5"), "t5")), device="cpu")


def test_lost_characters_are_named_with_the_share_of_outputs(text_backbone: ipt.Backbone) -> None:
    outputs = ["good food", "good, food!", "good\nfood", "{good}", "где"]
    warning = unwritable_outputs_warning(text_backbone, outputs)
    assert warning is not None
    assert "cannot write 3 of 5 outputs (60%)" in warning
    for lost in ("line breaks", "'{'", "'}'", "'г'"):
        assert lost in warning
    assert unwritable_outputs_warning(text_backbone, outputs[:2]) is None


def test_an_encoder_writes_nothing(tmp_path: Path) -> None:
    encoder = ipt.load_backbone(str(build_tiny_encoder(tmp_path)), device="cpu")
    assert unwritable_outputs_warning(encoder, ["{"]) is None
