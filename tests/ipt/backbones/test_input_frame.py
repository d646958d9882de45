"""Prompts in a user's turn: tokens, losses, gradients and answers are those of the stock model on a rendered chat."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

import ipt
from ipt.backbones.causal import CausalBackbone
from ipt.backbones.loading import load_backbone
from ipt.errors import BackboneError, SubspaceError, SubspaceMismatchError
from ipt.generation.batch import GenerationRequest
from ipt.generation.engine import GenerationEngine
from ipt.generation.events import TextFinished
from ipt.generation.parameters import GenerationParameters
from tests.support.tiny_chat import build_tiny_chat, save_chat_subspace
from tests.support.tiny_gguf import CHAT_TEMPLATE

TEXTS = ["hello", " two  spaces", "when does it arrive?", "he"]
TARGETS = ["good", "no idea", "he", "12"]
CLOSE: dict[str, float] = {"atol": 1e-4, "rtol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_chat(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture
def backbone(folder: Path) -> CausalBackbone:
    placed = load_backbone(str(folder), device="cpu").placed("user_turn")
    assert isinstance(placed, CausalBackbone)
    return placed


def chat_tokens(backbone: CausalBackbone, content: str) -> list[int]:
    """Return what transformers makes of one message of a user."""
    messages = [{"role": "user", "content": content}]
    ids: list[int] = backbone.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def stock_embeds(backbone: CausalBackbone, text: str, prompt: Tensor | None) -> Tensor:
    """Return a rendered chat [1, T, H] with the prompt where vLLM puts it: before the line break before the text."""
    before = chat_tokens(backbone, "")[: len(chat_tokens(backbone, "")) - len(backbone.tokenize([""])[0]) + 1]
    tokens = chat_tokens(backbone, "\n" + text)
    assert tokens[: len(before)] == before
    words = backbone.input_embeddings(torch.tensor(tokens))
    parts = [words] if prompt is None else [words[: len(before)], prompt, words[len(before) :]]
    return torch.cat(parts)[None]


def stock_likelihood(backbone: CausalBackbone, text: str, target: list[int], prompt: Tensor | None) -> Tensor:
    embeds = stock_embeds(backbone, text, prompt)
    row = torch.cat([embeds, backbone.input_embeddings(torch.tensor([target[:-1]]))], dim=1)
    model: Any = backbone.model
    logits = model(inputs_embeds=row).logits[0, -len(target) :]
    return log_softmax(logits, dim=1)[torch.arange(len(target)), target].sum()


def random_prompts(rows: int) -> Tensor:
    return torch.randn(rows, 5, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("with_prompts", [True, False])
def test_a_targets_likelihood_and_gradient_are_the_stock_models(backbone: CausalBackbone, with_prompts: bool) -> None:
    prompts = random_prompts(len(TEXTS)).requires_grad_(True) if with_prompts else None
    targets = backbone.tokenize_targets(TARGETS)
    likelihoods = backbone.target_log_likelihood(backbone.tokenize(TEXTS), targets, prompts)
    stock = torch.stack(
        [
            stock_likelihood(backbone, text, target, None if prompts is None else prompts[row])
            for row, (text, target) in enumerate(zip(TEXTS, targets, strict=True))
        ]
    )
    torch.testing.assert_close(likelihoods, stock, **CLOSE)
    if prompts is not None:
        (ours,) = torch.autograd.grad(likelihoods.sum(), prompts)
        (theirs,) = torch.autograd.grad(stock.sum(), prompts)
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_target_starts_the_assistants_turn(backbone: CausalBackbone) -> None:
    messages = [{"role": "user", "content": "\nhello"}, {"role": "assistant", "content": "good"}]
    rendered = backbone.tokenizer.apply_chat_template(messages, return_dict=False)
    whole = [*chat_tokens(backbone, "\nhello"), *backbone.tokenize_targets(["good"])[0]]
    assert whole == rendered[: len(whole)]


def test_label_scores_are_the_stock_models(backbone: CausalBackbone) -> None:
    prompts, labels = random_prompts(len(TEXTS)), backbone.tokenize_targets(TARGETS)
    with torch.no_grad():
        scores = backbone.score_labels(backbone.tokenize(TEXTS), labels, prompts)
        stock = [
            [stock_likelihood(backbone, text, label, prompt) / len(label) for label in labels]
            for text, prompt in zip(TEXTS, prompts, strict=True)
        ]
    torch.testing.assert_close(scores, torch.tensor(stock), **CLOSE)


def test_answers_are_the_stock_models_with_and_without_the_cache(backbone: CausalBackbone) -> None:
    prompts, rows = random_prompts(len(TEXTS)), backbone.tokenize(TEXTS)
    model: Any = backbone.model
    stock = [
        model.generate(
            inputs_embeds=stock_embeds(backbone, text, prompt), max_new_tokens=8, do_sample=False, pad_token_id=0
        )[0].tolist()
        for text, prompt in zip(TEXTS, prompts, strict=True)
    ]
    expected = [backbone.decode([token for token in answer if token not in (0, 2)]).strip() for answer in stock]
    assert backbone.generate(rows, prompts, max_new_tokens=8) == expected
    assert backbone.generate(rows, prompts, max_new_tokens=8, use_cache=False) == expected


def test_the_tokens_before_the_prompt_are_read_once(backbone: CausalBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = backbone.model
    rows, prompts, targets = backbone.tokenize(["hello"]), random_prompts(1), backbone.tokenize_targets(["he"])
    positions: list[int] = []
    forward = model.model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        tokens = kwargs.get("inputs_embeds") if kwargs.get("input_ids") is None else kwargs["input_ids"]
        positions.append(tokens.shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", counting)
    before = len(chat_tokens(backbone, "")) - len(backbone.tokenize([""])[0]) + 1
    for _ in range(2):
        backbone.target_log_likelihood(rows, targets, prompts)
    assert positions == [before, *[5 + len(rows[0]) + len(targets[0]) - 1] * 2]
    positions.clear()
    backbone.target_cross_entropy(rows * 3, targets * 3, prompts, prompt_of_row=[0, 0, 0])
    assert positions == [5, len(rows[0]) + len(targets[0]) - 1]


def test_the_head_reads_only_the_tokens_of_the_targets(
    backbone: CausalBackbone, monkeypatch: pytest.MonkeyPatch, one_bucket: None
) -> None:
    model: Any = backbone.model
    positions: list[int] = []
    head = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda states: positions.append(states.shape[0]) or head(states))
    targets = backbone.tokenize_targets(["a", "a much longer one"])
    backbone.target_log_likelihood(backbone.tokenize(["hello", "he"]), targets, None)
    assert positions == [sum(map(len, targets))]


def test_gradients_follow_a_first_use_in_inference_mode(backbone: CausalBackbone) -> None:
    with torch.inference_mode():
        backbone.generate(backbone.tokenize(["hello"]), random_prompts(1), max_new_tokens=2)
    prompts = random_prompts(1).requires_grad_(True)
    loss = backbone.target_cross_entropy(backbone.tokenize(["hello"]), backbone.tokenize_targets(["he"]), prompts)
    loss.sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().sum() > 0


def test_the_generation_engine_writes_the_same_answers(backbone: CausalBackbone, tmp_path: Path) -> None:
    subspace = save_chat_subspace(tmp_path, backbone)
    vectors = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    tasks = [ipt.TaskHead(vector, subspace.id, "text2text", (), None) for vector in vectors]
    plain = backbone.placed("before_input")  # callers need not know the placement
    engine, predictor = GenerationEngine(plain, subspace), ipt.Predictor(plain, subspace)
    parameters = GenerationParameters(max_new_tokens=8)
    for number, text in enumerate(TEXTS):
        engine.add(GenerationRequest(str(number), predictor.bind(tasks[number % 2]), text, parameters))
    texts: dict[str, str] = {}
    while not engine.idle:
        texts |= {event.request_id: event.text for event in engine.step() if isinstance(event, TextFinished)}
    prompts = subspace.decoder(torch.from_numpy(vectors))[[0, 1, 0, 1]]
    expected = backbone.generate(backbone.tokenize(TEXTS), prompts, max_new_tokens=8)
    # The engine leaves out a character whose last bytes were not written.
    assert [texts[str(number)].strip() for number in range(len(TEXTS))] == [text.rstrip("\ufffd") for text in expected]


def test_a_long_text_loses_its_beginning_and_keeps_the_end_of_its_turn(backbone: CausalBackbone) -> None:
    [row] = backbone.tokenize(["x" * 500 + " end"])
    ending = chat_tokens(backbone, "\n end")[-len("\n end<>\nassistant\n") :]
    assert len(row) == backbone.max_positions
    assert backbone.decode(row).endswith("x end\nassistant\n")
    assert row[-len(ending) :][-3:] == ending[-3:]
    fitted = backbone.fit_input(row, 5, 20)
    assert len(fitted) == backbone.max_positions - 25
    assert fitted[-20:] == row[-20:]


def test_a_prompt_that_leaves_no_room_for_the_turn_is_rejected(backbone: CausalBackbone) -> None:
    backbone.check_room(backbone.max_positions - backbone.min_text_positions)
    with pytest.raises(BackboneError, match="leaves no room for text"):
        backbone.check_room(backbone.max_positions - backbone.min_text_positions + 1)
    with pytest.raises(BackboneError, match="leave no room for text"):
        backbone.fit_input([0], backbone.max_positions - backbone.min_input_tokens, 1)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ messages[0]['role'] }}", "cannot show one message of a user"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "cannot show one message of a user"),
        ("{{ raise_exception('no users\nhere') }}", "cannot show one message of a user (no users)"),
        ("{% for", "cannot show one message of a user"),
    ],
)
def test_a_model_without_a_usable_chat_template_is_rejected(tmp_path: Path, template: str | None, message: str) -> None:
    plain = load_backbone(str(build_tiny_chat(tmp_path, template)), device="cpu")
    with pytest.raises(BackboneError) as caught:
        plain.placed("user_turn")
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert "before_input" in caught.value.message


def test_an_unknown_placement_is_rejected(backbone: CausalBackbone) -> None:
    with pytest.raises(BackboneError, match="expected one of: before_input, user_turn"):
        backbone.placed("every_where")


def test_the_chat_template_is_part_of_the_subspace_id(backbone: CausalBackbone, tmp_path: Path) -> None:
    subspace = save_chat_subspace(tmp_path / "subspace", backbone)
    assert "<|im_start|>user\n{prompt}\n{input}<|im_end|>" in subspace.manifest["template"]
    assert subspace.placed(backbone.placed("before_input")).template == subspace.manifest["template"]
    shouting = CHAT_TEMPLATE.replace("message['role']", "message['role'].upper()")
    other = load_backbone(str(build_tiny_chat(tmp_path / "model", shouting)), device="cpu")
    other.identity = backbone.identity
    with pytest.raises(SubspaceMismatchError, match="was fitted with another chat template"):
        subspace.placed(other)
    assert save_chat_subspace(tmp_path / "other", other).id != subspace.id
    assert other.placed("user_turn").prompt_identity != backbone.prompt_identity
    assert subspace.prompt_identity == backbone.prompt_identity


def test_a_manifest_without_a_place_for_the_input_is_rejected(backbone: CausalBackbone, tmp_path: Path) -> None:
    save_chat_subspace(tmp_path, backbone)
    manifest = json.loads((tmp_path / "subspace.json").read_text())
    for template in ("{input}", "{prompt}", None):
        (tmp_path / "subspace.json").write_text(json.dumps(manifest | {"template": template}))
        with pytest.raises(SubspaceError, match=r"template must be a text with \{prompt\} and \{input\}"):
            ipt.load_subspace(tmp_path)
