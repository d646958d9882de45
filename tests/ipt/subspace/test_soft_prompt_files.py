"""Export of a task's prompt: the code in the deployment guide gives the same logits as this library."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ipt
from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.subspace.soft_prompt_files import read_prompts, save_chat_request, save_prompt_embeds
from tests.support.tiny import build_tiny_text
from tests.support.tiny_chat import build_tiny_chat, save_chat_subspace

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["gpt2", "llama", "qwen2"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    return build_tiny_text(tmp_path, request.param)


def test_a_stock_model_with_an_exported_prompt_has_our_logits(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = ipt.load_backbone(str(folders[0]), device="cpu")
    assert isinstance(backbone, PromptedTextBackbone)
    subspace = ipt.load_subspace(folders[1], backbone)
    vector = np.random.default_rng(1).normal(size=8).astype(np.float32)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "replies.safetensors"
    save_prompt_embeds(file, subspace, vector, {"task_id": "tsk_1", "task_version": "3"})

    document = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```", document[document.index("## Other engines") :], re.DOTALL | re.M)
    documented: dict[str, Any] = {"MODEL": str(folders[0])}
    exec(block, documented)
    text = "hello world, i love my phone"
    embeds = documented["prompt_embeds"](text)
    stock: Any = documented["AutoModelForCausalLM"].from_pretrained(folders[0])
    with torch.no_grad():
        theirs = stock(inputs_embeds=embeds[None]).logits[:, -1]
        prompts = subspace.decoder(torch.from_numpy(vector)[None])
        ours = backbone.prefill(backbone.tokenize([text]), prompts).logits
        generated = stock.generate(inputs_embeds=embeds[None], max_new_tokens=8, do_sample=False, pad_token_id=0)[0]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-5)
    assert [backbone.decode(generated.tolist()).strip()] == backbone.generate(
        backbone.tokenize([text]), prompts, max_new_tokens=8
    )

    torch.testing.assert_close(read_prompts(file, backbone)["prompt_embeds"], prompts[0])
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["backbone"])["weights_sha256"] == backbone.identity.weights_sha256
    assert (metadata["subspace_id"], metadata["task_id"], metadata["task_version"]) == (subspace.id, "tsk_1", "3")


def test_only_prompts_of_causal_backbones_are_exported(tmp_path: Path) -> None:
    _, folder = build_tiny_text(tmp_path / "t5", "t5")
    with pytest.raises(ipt.SubspaceError, match="is not a causal backbone"):
        save_prompt_embeds(tmp_path / "out", ipt.load_subspace(folder), np.zeros(8, np.float32), {})
    _, folder = build_tiny_text(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ipt.SubspaceMismatchError, match=r"shape \[9\], .* expects \[8\]"):
        save_prompt_embeds(tmp_path / "out", ipt.load_subspace(folder), np.zeros(9, np.float32), {})
    assert not (tmp_path / "out").exists()


def test_a_chat_request_has_our_logits_where_vllm_puts_the_prompt(tmp_path: Path) -> None:
    plain = ipt.load_backbone(str(build_tiny_chat(tmp_path / "model")), device="cpu")
    backbone = plain.placed("user_turn")
    assert isinstance(backbone, PromptedTextBackbone)
    subspace = save_chat_subspace(tmp_path / "subspace", backbone)
    vector = np.random.default_rng(1).normal(size=8).astype(np.float32)
    save_chat_request(tmp_path / "request.json", subspace, vector, {"task_id": "tsk_1"})

    request = json.loads((tmp_path / "request.json").read_text().replace("{input}", "hello"))
    assert request["metadata"] == {"subspace_id": subspace.id, "task_id": "tsk_1"}
    # As vLLM does: parts are joined by a line break, and a token stands for each embedding until after tokenizing.
    placeholder, [message] = "<|endoftext|>", request["messages"]
    contents = [placeholder if part["type"] == "prompt_embeds" else part["text"] for part in message["content"]]
    embeds = torch.load(io.BytesIO(base64.b64decode(message["content"][0]["data"])), weights_only=True)
    tokens = plain.tokenizer.apply_chat_template(
        [{"role": "user", "content": "\n".join(contents)}], add_generation_prompt=True, return_dict=False
    )
    place = tokens.index(plain.tokenizer.convert_tokens_to_ids(placeholder))
    words = plain.input_embeddings(torch.tensor(tokens))
    model: Any = plain.model
    with torch.no_grad():
        theirs = model(inputs_embeds=torch.cat([words[:place], embeds, words[place + 1 :]])[None]).logits[:, -1]
        prompts = subspace.decoder(torch.from_numpy(vector)[None])
        ours = backbone.prefill(backbone.tokenize(["hello"]), prompts).logits
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-5)


def test_a_chat_request_needs_a_subspace_of_chats(tmp_path: Path) -> None:
    _, folder = build_tiny_text(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ipt.SubspaceError, match="a chat request needs 'user_turn': export the prompt as safetensors"):
        save_chat_request(tmp_path / "out", ipt.load_subspace(folder), np.zeros(8, np.float32), {})
    assert not (tmp_path / "out").exists()
