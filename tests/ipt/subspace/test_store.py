"""Saving and loading subspaces: files that were damaged or changed are rejected."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ipt
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.weight_files import hash_files
from ipt.subspace.manifest import MANIFEST_FILE, TENSORS_FILE, subspace_id
from ipt.subspace.prompt_decoder import SubspaceDecoder, SubspaceEncoder
from tests.support.tiny import build_tiny_causal, build_tiny_encoder


@pytest.fixture
def folder(subspace_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(subspace_dir, tmp_path / "subspace"))


def rewrite_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def rewrite_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / TENSORS_FILE)
    change(tensors)
    save_file(tensors, folder / TENSORS_FILE)
    rewrite_manifest(folder, lambda manifest: manifest.update(tensors_sha256=hash_files([folder / TENSORS_FILE])))


def test_a_saved_subspace_is_loaded(encoder: EncoderBackbone, tmp_path: Path) -> None:
    decoder, compressor = SubspaceDecoder(8, 16, 4, 32), SubspaceEncoder(8, 4, 32)
    starts = torch.randn(2, 8).half().float()
    saved = ipt.save_subspace(tmp_path, decoder, encoder, initial_vectors=starts, encoder=compressor)
    loaded = ipt.load_subspace(tmp_path, encoder)
    assert loaded.id == saved.id
    assert (loaded.intrinsic_dim, loaded.prompt_length, loaded.hidden_size) == (8, 4, 32)
    assert torch.equal(loaded.initial_vectors, starts)
    ids = [loaded.initial_vector_id(vector.numpy()) for vector in starts]
    assert None not in ids
    assert len(set(ids)) == 2
    assert loaded.initial_vector_id(starts[1].numpy() + 1e-4) is None
    again = ipt.save_subspace(tmp_path, decoder, encoder, initial_vectors=starts.flip(0))
    assert (again.id, again.initial_vector_id(starts[1].numpy())) == (loaded.id, ids[1])
    vectors = torch.randn(3, 8)
    torch.testing.assert_close(loaded.decoder(vectors), decoder(vectors), atol=1e-2, rtol=0)
    assert loaded.decoder(vectors).shape == (3, 4, 32)
    assert loaded.encoder is not None
    assert loaded.encoder(loaded.decoder(vectors)).shape == (3, 8)


def test_the_id_depends_only_on_what_changes_a_vectors_meaning(encoder: EncoderBackbone, tmp_path: Path) -> None:
    decoder = SubspaceDecoder(8, 16, 4, 32)
    first = ipt.save_subspace(tmp_path / "a", decoder, encoder, training={"note": "first"})
    same = ipt.save_subspace(tmp_path / "b", decoder, encoder, training={"note": "other"})
    assert first.id == same.id
    with torch.no_grad():
        decoder.expand.bias[0] += 0.1
    assert ipt.save_subspace(tmp_path / "c", decoder, encoder).id != first.id


def test_a_subspace_places_prompts_as_it_was_fitted(encoder: EncoderBackbone, tmp_path: Path) -> None:
    placed = encoder.placed("after_last_token")
    decoder = SubspaceDecoder(8, 16, 4, 32)
    saved = ipt.save_subspace(tmp_path / "a", decoder, placed)
    assert saved.manifest["prompt_placement"] == "after_last_token"
    assert saved.id != ipt.save_subspace(tmp_path / "b", decoder, encoder).id
    loaded = ipt.load_subspace(tmp_path / "a", encoder)
    assert loaded.id == saved.id
    assert loaded.placed(encoder) is placed
    assert loaded.placed(placed) is placed


def test_a_backbone_with_other_weights_is_rejected(subspace_dir: Path, tmp_path: Path) -> None:
    other = ipt.load_backbone(str(build_tiny_encoder(tmp_path / "other", seed=1)), device="cpu")
    with pytest.raises(ipt.SubspaceMismatchError, match="belongs to backbone"):
        ipt.load_subspace(subspace_dir, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({"decoder.expand.bias": torch.full((16,), torch.nan)}),
        lambda tensors: tensors.update({"decoder.expand.bias": torch.zeros(15)}),
        lambda tensors: tensors.update({"decoder.expand.bias": torch.zeros(16, dtype=torch.int32)}),
        lambda tensors: tensors.pop("decoder.project.bias"),
        lambda tensors: tensors.update({"surplus": torch.zeros(1)}),
        lambda tensors: tensors.update({"initial_vectors": torch.zeros(1, 9)}),
        lambda tensors: tensors.update({"task_vectors": torch.zeros(2, 8)}),
        lambda tensors: tensors["decoder.expand.bias"].add_(0.5),
    ],
    ids=["NaN", "shape", "integers", "missing", "surplus", "initial vectors", "vectors of no task", "other numbers"],
)
def test_changed_tensors_are_rejected(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    rewrite_tensors(folder, change)
    with pytest.raises(ipt.SubspaceError):
        ipt.load_subspace(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(format_version=2),
        lambda manifest: manifest.update(intrinsic_dim="8"),
        lambda manifest: manifest.update(intrinsic_dim=10**9),
        lambda manifest: manifest.update(prompt_length=True),
        lambda manifest: manifest.pop("backbone"),
        lambda manifest: manifest.update(subspace_id="sub_forged"),
        lambda manifest: manifest.update(training=None),
        lambda manifest: manifest.update(training={"readout": {"ridge": [0.1, 0.2], "scale": [4.0, 5.0]}}),
        lambda manifest: manifest.update(training={"readout": {"ridge": 0.1, "scale": float("nan")}}),
        lambda manifest: manifest.update(training={"readout": {"ridge": 10**400, "scale": 8.0}}),
        lambda manifest: manifest.update(training={"note": "a\x00b"}),
        lambda manifest: manifest.update(training={"note": "\ud800"}),
    ],
    ids=[
        "version",
        "text",
        "huge",
        "boolean",
        "no backbone",
        "id",
        "no training",
        "two readouts",
        "NaN",
        "too large",
        "NUL",
        "lone surrogate",
    ],
)
def test_a_changed_manifest_is_rejected(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    rewrite_manifest(folder, change)
    with pytest.raises(ipt.SubspaceError):
        ipt.load_subspace(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prompt_placement", lambda manifest: manifest.update(prompt_placement="before_input")),
        ("prompt_placement", lambda manifest: manifest.update(prompt_placement=["after_first_token"])),
        ("template", lambda manifest: manifest.update(template="Text: {input}")),
        ("template", lambda manifest: manifest.pop("template")),
        ("training.options", lambda manifest: manifest.update(training={"options": [3]})),
        ("training.tasks", lambda manifest: manifest.update(training={"tasks": "one"})),
        ("training.rows", lambda manifest: manifest.update(training={"tasks": ["one"], "rows": 5})),
        ("backbone.family", lambda manifest: manifest["backbone"].update(family="decoder")),
        ("prompt_placement", lambda manifest: manifest["backbone"].update(family="causal")),
        ("family", lambda manifest: manifest["backbone"].pop("family")),
    ],
)
def test_an_unsupported_value_is_rejected_even_with_the_right_id(
    folder: Path, name: str, change: Callable[[dict[str, object]], object]
) -> None:
    rewrite_manifest(folder, change)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    rewrite_manifest(
        folder, lambda changed: changed.update(subspace_id=subspace_id(manifest, load_file(folder / TENSORS_FILE)))
    )
    with pytest.raises(ipt.SubspaceError, match=f"{MANIFEST_FILE}: .*{name}"):
        ipt.load_subspace(folder)


def test_a_backbone_of_another_family_is_rejected(tmp_path: Path) -> None:
    causal = ipt.load_backbone(str(build_tiny_causal(tmp_path / "backbone", "gpt2")), device="cpu")
    ipt.save_subspace(tmp_path / "subspace", SubspaceDecoder(8, 16, 4, 32), causal)
    rewrite_manifest(tmp_path / "subspace", lambda manifest: manifest["backbone"].update(family="seq2seq"))  # type: ignore[attr-defined]
    with pytest.raises(ipt.SubspaceMismatchError, match="family 'seq2seq'"):
        ipt.load_subspace(tmp_path / "subspace", causal)


@pytest.mark.parametrize("name", ["initial_vectors", "task_vectors", "encoder.compress.bias", "decoder.expand.bias"])
def test_a_flipped_bit_in_any_tensor_is_rejected(encoder: EncoderBackbone, tmp_path: Path, name: str) -> None:
    ipt.save_subspace(
        tmp_path,
        SubspaceDecoder(8, 16, 4, 32),
        encoder,
        encoder=SubspaceEncoder(8, 4, 32),
        task_vectors=torch.randn(2, 8),
        training={"tasks": ["one", "two"]},
    )
    path = tmp_path / TENSORS_FILE
    data = bytearray(path.read_bytes())
    header_length = int.from_bytes(data[:8], "little")
    data[8 + header_length + json.loads(data[8 : 8 + header_length])[name]["data_offsets"][0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(ipt.SubspaceError, match=r"sha256|subspace_id"):
        ipt.load_subspace(tmp_path)


def test_a_manifest_without_the_hash_of_the_tensors_is_rejected(folder: Path) -> None:
    rewrite_manifest(folder, lambda manifest: manifest.pop("tensors_sha256"))
    with pytest.raises(ipt.SubspaceError, match="tensors_sha256"):
        ipt.load_subspace(folder)


@pytest.mark.parametrize("spec", [None, 3, b"folder"])
def test_a_spec_of_another_type_is_rejected(spec: Any) -> None:
    with pytest.raises(ipt.SubspaceError, match="path of its folder, got"):
        ipt.load_subspace(spec)


def test_the_packaged_subspace_loads_and_keeps_its_id() -> None:
    assert ipt.load_subspace().id == "sub_d064ff0928a9a8fb18371ba1"


@pytest.mark.parametrize("name", [TENSORS_FILE, MANIFEST_FILE])
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise", "huge header"])
def test_a_damaged_file_is_rejected_by_name(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "noise":
        path.write_bytes(b"\x80" * 200)
    else:
        path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ipt.SubspaceError, match=name):
        ipt.load_subspace(folder)


def test_a_diverged_decoder_is_not_saved(encoder: EncoderBackbone, tmp_path: Path) -> None:
    decoder = SubspaceDecoder(8, 16, 4, 32)
    with torch.no_grad():
        decoder.expand.bias[0] = torch.inf
    with pytest.raises(ipt.SubspaceError, match="not finite"):
        ipt.save_subspace(tmp_path / "diverged", decoder, encoder)
    assert not (tmp_path / "diverged").exists()
