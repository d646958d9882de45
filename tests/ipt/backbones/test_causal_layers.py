"""Prompts at every layer of a causal backbone: the stock model with the same keys and values answers the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import ipt
from ipt.backbones.causal import CausalBackbone
from ipt.backbones.loading import load_backbone
from ipt.data.task_dataset import TaskDataset
from ipt.errors import SubspaceError
from ipt.fitting.direct_fit import DirectFit, FitOptions
from ipt.fitting.prepare_tasks import prepare_tasks
from ipt.subspace.full_prompt_space import full_prompt_space
from ipt.subspace.soft_prompt_files import save_prompt_embeds
from tests.support.datasets import sentiment
from tests.support.tiny_chat import build_tiny_chat
from tests.support.tiny_gguf import CHAT_TEMPLATE

TEXTS = ["hello", " two  spaces", "when does it arrive?", "he"]
TARGETS = ["good", "no idea", "he", "12"]
CLOSE: dict[str, float] = {"atol": 1e-4, "rtol": 1e-5}
WORDS = torch.tensor([[30, 41, 52]])


@pytest.fixture(scope="module", params=[CHAT_TEMPLATE, None], ids=["chat", "plain"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalBackbone:
    folder = build_tiny_chat(tmp_path_factory.mktemp("layers") / "model", request.param)
    placed = load_backbone(str(folder), device="cpu").placed("every_layer")
    assert isinstance(placed, CausalBackbone)
    return placed


def tokens_before(backbone: CausalBackbone) -> list[int]:
    if not backbone.tokenizer.chat_template:
        return []
    before = backbone.template.split("{input}")[0]
    ids: list[int] = backbone.tokenizer(before, add_special_tokens=False)["input_ids"]
    return ids


def test_a_prompt_of_words_reads_like_these_words_before_the_input(backbone: CausalBackbone) -> None:
    prompt = backbone.prompts_of_tokens(WORDS)
    assert prompt.shape == (1, backbone.prompt_rows(3), backbone.hidden_size)
    model: Any = backbone.model
    inputs, targets = backbone.tokenize(TEXTS), backbone.tokenize_targets(TARGETS)

    losses = backbone.target_cross_entropy(inputs, targets, prompt.expand(len(TEXTS), -1, -1))

    for row, target, loss in zip(inputs, targets, losses, strict=True):
        ids = torch.tensor([[*tokens_before(backbone), *WORDS[0].tolist(), *row, *target]])
        logits = model(input_ids=ids).logits[0, -len(target) - 1 : -1]
        torch.testing.assert_close(loss, cross_entropy(logits, torch.tensor(target)), **CLOSE)


def random_prompts(backbone: CausalBackbone, count: int) -> Tensor:
    shape = (count, backbone.prompt_rows(2), backbone.hidden_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_rows_that_share_a_prompt_have_the_losses_and_gradients_of_rows_with_copies(backbone: CausalBackbone) -> None:
    inputs, targets = backbone.tokenize(TEXTS), backbone.tokenize_targets(TARGETS)
    prompts = random_prompts(backbone, 2).requires_grad_()
    prompt_of_row = [0, 1, 1, 0]

    shared = backbone.target_cross_entropy(inputs, targets, prompts, prompt_of_row=prompt_of_row)
    [gradient] = torch.autograd.grad(shared.sum(), prompts)
    copied = backbone.target_cross_entropy(inputs, targets, prompts[prompt_of_row])
    [expected] = torch.autograd.grad(copied.sum(), prompts)

    torch.testing.assert_close(shared, copied, **CLOSE)
    torch.testing.assert_close(gradient, expected, **CLOSE)
    assert bool(expected.flatten(1).abs().sum(dim=1).gt(0).all())


def test_cached_and_uncached_answers_and_label_scores_agree(backbone: CausalBackbone) -> None:
    inputs, labels = backbone.tokenize(TEXTS), backbone.tokenize_targets(["yes", "never"])
    prompts = random_prompts(backbone, len(TEXTS))

    answers = backbone.generate(inputs, prompts, max_new_tokens=6)
    scores = backbone.score_labels(inputs, labels, prompts)

    assert answers == backbone.generate(inputs, prompts, max_new_tokens=6, use_cache=False)
    assert answers != backbone.generate(inputs, None, max_new_tokens=6)
    for number, label in enumerate(labels):
        likelihoods = backbone.target_log_likelihood(inputs, [label] * len(inputs), prompts)
        torch.testing.assert_close(scores[:, number], likelihoods / len(label), **CLOSE)


def test_a_prompt_takes_positions_from_the_text(backbone: CausalBackbone) -> None:
    rows = backbone.prompt_rows(2)
    assert backbone.input_positions(rows) == 2
    longest = backbone.max_input_tokens(rows)
    assert longest == backbone.max_input_tokens(backbone.prompt_rows(1)) - 1
    [ids] = backbone.tokenize(["a" * 1000])
    target = backbone.tokenize_targets(["b" * 1000])
    loss = backbone.target_cross_entropy([ids], target, random_prompts(backbone, 1))
    assert bool(torch.isfinite(loss).all())


def test_a_subspace_in_the_layers_is_fitted_saved_and_tuned_in(backbone: CausalBackbone, tmp_path: Path) -> None:
    options = FitOptions(
        intrinsic_dim=5,
        decoder_hidden=6,
        prompt_length=backbone.prompt_rows(1),
        steps=4,
        tasks_per_step=2,
        rows_per_task=3,
        warmup_steps=1,
    )
    tasks = [TaskDataset(name, name, tuple(sentiment(3)), ()) for name in ("first", "second")]
    running = DirectFit(prepare_tasks(backbone, tasks, options), options)
    saved = running.run_in(tmp_path, lambda *_: None)

    loaded = ipt.load_subspace(tmp_path, backbone)
    task = ipt.adapt(backbone, loaded, sentiment(3), kind="text2text", hyperparameters=ipt.Hyperparameters(steps=3))

    assert (loaded.id, loaded.manifest["template"]) == (saved.id, backbone.template)
    assert task.head.vector.shape == (5,)
    with pytest.raises(SubspaceError, match="keys and values of layers"):
        save_prompt_embeds(tmp_path / "p.safetensors", loaded, task.head.vector, {})


def test_whole_prompts_start_at_words(backbone: CausalBackbone) -> None:
    space = full_prompt_space(backbone, backbone.prompt_rows(2))
    assert space.intrinsic_dim == backbone.prompt_rows(2) * backbone.hidden_size
