"""An engine on the tiny encoder."""

import pytest

import ipt
from ipt.backbones.encoder import EncoderBackbone


@pytest.fixture
def engine(encoder: EncoderBackbone, subspace: ipt.Subspace) -> ipt.TuningEngine:
    return ipt.TuningEngine(encoder, subspace)
