"""Tasks of other subspaces are answered from the library."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.subspace.library import SubspaceLibrary
from ipt.subspace.prompt_decoder import SubspaceDecoder
from ipt.subspace.shipped import shipped_folders
from tests.support.datasets import sentiment, topics


@pytest.fixture
def folder(encoder: EncoderBackbone, tmp_path: Path) -> Path:
    """A subspace with prompts at every layer, of another dimension than the fixture `subspace`."""
    placed = encoder.placed("every_layer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        decoder = SubspaceDecoder(5, 7, placed.prompt_rows(2), placed.hidden_size)
    ipt.save_subspace(tmp_path / "other", decoder, placed)
    return tmp_path / "other"


def test_every_shipped_subspace_is_found_by_its_id() -> None:
    default = ipt.load_subspace("default")
    library = SubspaceLibrary()
    assert default.id in library.ids
    assert len(library.ids) == len(shipped_folders())
    for subspace_id in library.ids:
        loaded = library.load(subspace_id)
        assert loaded is not None
        assert loaded.id == subspace_id
    assert library.load("sub_other") is None


def test_rows_of_tasks_of_two_subspaces_are_predicted_like_each_alone(
    encoder: EncoderBackbone, subspace: ipt.Subspace, folder: Path
) -> None:
    other = ipt.load_subspace(folder, encoder.placed("every_layer"))
    steps = ipt.Hyperparameters(steps=4, learning_rate=0.1)
    heads = [
        ipt.adapt(encoder, space, examples, hyperparameters=steps).head
        for space, examples in ((subspace, sentiment()), (other, topics()), (other, sentiment()))
    ]
    texts = ["good movie", "refund the invoice", "bad", "hello"]
    rows = [(heads[number % 3], text) for number, text in enumerate(texts * 2)]
    both = ipt.Predictor(encoder, subspace, library=SubspaceLibrary([folder]))
    alone = [ipt.Predictor(encoder, space) for space in (subspace, other)]
    for (head, text), together in zip(rows, both.predict(rows), strict=True):
        (expected,) = alone[head is not heads[0]].predict([(head, text)])
        assert together.label == expected.label
        assert together.scores is not None
        assert expected.scores is not None
        np.testing.assert_allclose(list(together.scores.values()), list(expected.scores.values()), atol=1e-5)
    with pytest.raises(ipt.SubspaceMismatchError, match="IPT_EARLIER_SUBSPACES"):
        both.predict([(replace(heads[0], subspace_id="sub_missing"), "good")])


def test_a_folder_without_a_manifest_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ipt.SubspaceError, match=r"subspace\.json"):
        SubspaceLibrary([tmp_path])
