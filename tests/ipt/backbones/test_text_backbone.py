"""The seq2seq and causal families on tiny models of each supported type, compared with the stock models."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ipt.backbones import batching
from ipt.backbones import text_backbone as text_module
from ipt.backbones.causal import CausalBackbone
from ipt.backbones.seq2seq import Seq2SeqBackbone
from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.errors import BackboneError

INPUTS = ["hello world", "the cat sat on the mat and the dog was not happy with it", "i love my phone", "me"]
TARGETS = ["good", "bad film, please", "the money was lost", "red"]
# The tiny T5 has logits in the hundreds.
CLOSE: dict[str, float] = {"atol": 1e-4, "rtol": 1e-5}


def stock_logits(backbone: PromptedTextBackbone, row: list[int], target: list[int]) -> Tensor:
    """Return the logits [L, V] for a target's tokens of a single row, from the transformers model only."""
    model: Any = backbone.model
    with torch.no_grad():
        if isinstance(backbone, Seq2SeqBackbone):
            start = [2, 0] if model.config.model_type == "bart" else [1]
            decoder_ids = torch.tensor([[*start, *target[:-1]]])
            logits = model(input_ids=torch.tensor([row]), decoder_input_ids=decoder_ids).logits[0]
        else:
            logits = model(input_ids=torch.tensor([[*row, *target[:-1]]])).logits[0]
    return logits[-len(target) :]


def stock_log_probabilities(backbone: PromptedTextBackbone, row: list[int], target: list[int]) -> Tensor:
    """Return the log-probability of each token of the target, [L]."""
    return log_softmax(stock_logits(backbone, row, target), dim=1)[torch.arange(len(target)), target]


def random_prompts(backbone: PromptedTextBackbone, rows: int, length: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, backbone.hidden_size, generator=generator)


@pytest.mark.parametrize("prompt_length", [None, 0])
def test_without_a_prompt_a_target_has_the_stock_models_likelihood(
    text_backbone: PromptedTextBackbone, prompt_length: int | None
) -> None:
    rows, targets = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    prompts = None if prompt_length is None else random_prompts(text_backbone, len(rows), 0)
    stock = [stock_log_probabilities(text_backbone, r, t).sum() for r, t in zip(rows, targets, strict=True)]
    likelihoods = text_backbone.target_log_likelihood(rows, targets, prompts)
    torch.testing.assert_close(likelihoods, torch.stack(stock), **CLOSE)


def test_label_scores_are_the_stock_models_token_log_probabilities(text_backbone: PromptedTextBackbone) -> None:
    rows, labels = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    stock = [[stock_log_probabilities(text_backbone, row, label).mean() for label in labels] for row in rows]
    scores = text_backbone.score_labels(rows, labels, None)
    torch.testing.assert_close(scores, torch.tensor(stock), **CLOSE)


@pytest.mark.usefixtures("one_bucket")
@pytest.mark.parametrize("scored_tokens", [1, 7, 512])
def test_label_scores_equal_the_likelihood_of_whole_targets(
    text_backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch, scored_tokens: int
) -> None:
    monkeypatch.setattr(text_module, "SCORED_TOKENS", scored_tokens)
    rows, labels = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(["good", *TARGETS])
    prompts = random_prompts(text_backbone, len(rows))
    whole = [text_backbone.target_log_likelihood(rows, [label] * len(rows), prompts) / len(label) for label in labels]
    torch.testing.assert_close(text_backbone.score_labels(rows, labels, prompts), torch.stack(whole, 1), **CLOSE)


def test_scoring_a_group_of_labels_stays_within_the_positions_of_a_pass(
    text_backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = text_backbone.tokenize([INPUTS[1]])
    labels, tail = [[5, word, 6] for word in range(7, 27)], 2
    prompts = random_prompts(text_backbone, 1)
    expected = text_backbone.score_labels(rows, labels, prompts)
    batch_sizes: list[int] = []

    def note(_model: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("decoder_input_ids", kwargs.get("input_ids"))
        if tokens is not None:
            batch_sizes.append(len(tokens))

    monkeypatch.setattr(batching, "CPU_BUCKETS", (150, 0.1, 32))
    hook = text_backbone.model.register_forward_pre_hook(note, with_kwargs=True)
    scores = text_backbone.score_labels(rows, labels, prompts)
    hook.remove()
    assert max(batch_sizes) == 150 // (prompts.shape[1] + len(rows[0]) + tail) > 1
    torch.testing.assert_close(scores, expected, **CLOSE)


def test_single_token_labels_are_scored(text_backbone: PromptedTextBackbone) -> None:
    rows = text_backbone.tokenize(INPUTS)
    stock = [[stock_log_probabilities(text_backbone, row, [token]).item() for token in (5, 9)] for row in rows]
    torch.testing.assert_close(text_backbone.score_labels(rows, [[5], [9]], None), torch.tensor(stock), **CLOSE)


def test_label_scores_carry_gradients(text_backbone: PromptedTextBackbone) -> None:
    rows, labels = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    prompts = random_prompts(text_backbone, len(rows)).requires_grad_()
    (through_scores,) = torch.autograd.grad(text_backbone.score_labels(rows, labels, prompts)[:, 1].sum(), prompts)
    whole = text_backbone.target_log_likelihood(rows, [labels[1]] * len(rows), prompts) / len(labels[1])
    (through_targets,) = torch.autograd.grad(whole.sum(), prompts)
    torch.testing.assert_close(through_scores, through_targets, atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("one_bucket")
def test_padding_changes_nothing(text_backbone: PromptedTextBackbone) -> None:
    rows, targets = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    prompts = random_prompts(text_backbone, len(rows))
    for i, row in enumerate(rows):
        prompt = prompts[[i]]
        together = text_backbone.target_log_likelihood(rows, targets, prompts)[[i]]
        torch.testing.assert_close(together, text_backbone.target_log_likelihood([row], [targets[i]], prompt), **CLOSE)
        scores = text_backbone.score_labels(rows, targets, prompts)[[i]]
        torch.testing.assert_close(scores, text_backbone.score_labels([row], targets, prompt), **CLOSE)
        answer = text_backbone.generate(rows, prompts, max_new_tokens=8)[i]
        assert text_backbone.generate([row], prompt, max_new_tokens=8) == [answer]


@pytest.mark.usefixtures("one_bucket")
def test_a_row_does_not_depend_on_its_neighbours_prompts(text_backbone: PromptedTextBackbone) -> None:
    rows, targets = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    prompts = random_prompts(text_backbone, len(rows)).requires_grad_()
    others = random_prompts(text_backbone, len(rows), seed=1)
    others[0] = prompts[0].detach()
    likelihoods = text_backbone.target_log_likelihood(rows, targets, prompts)
    torch.testing.assert_close(text_backbone.target_log_likelihood(rows, targets, others)[0], likelihoods[0], **CLOSE)
    scores = [text_backbone.score_labels(rows, targets, each)[0] for each in (prompts, others)]
    torch.testing.assert_close(*scores, **CLOSE)
    answers = [text_backbone.generate(rows, each, max_new_tokens=8) for each in (prompts, others)]
    assert answers[0][0] == answers[1][0]
    (gradient,) = torch.autograd.grad(likelihoods[0], prompts)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_a_prompt_is_read_before_the_input(text_backbone: PromptedTextBackbone) -> None:
    words = text_backbone.tokenize_targets(["red blue green"])[0][:-1]
    with torch.no_grad():
        prompt = text_backbone.input_embeddings(torch.tensor([words]))
    row, target = text_backbone.tokenize([INPUTS[1]])[0], text_backbone.tokenize_targets([TARGETS[1]])[0]
    prompted = text_backbone.target_log_likelihood([row], [target], prompt)
    stock = stock_log_probabilities(text_backbone, [*words, *row], target).sum()
    torch.testing.assert_close(prompted[0], stock, **CLOSE)


def test_rows_that_share_a_prompt_have_the_losses_and_gradients_of_rows_with_copies(
    text_backbone: PromptedTextBackbone,
) -> None:
    rows, targets = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    prompts, of_row = random_prompts(text_backbone, 2).requires_grad_(True), [1, 0, 1, 1]
    shared = text_backbone.target_cross_entropy(rows, targets, prompts, label_smoothing=0.1, prompt_of_row=of_row)
    copied = text_backbone.target_cross_entropy(rows, targets, prompts[of_row], label_smoothing=0.1)
    torch.testing.assert_close(shared, copied, **CLOSE)
    (ours,), (theirs,) = (torch.autograd.grad(losses.sum(), prompts) for losses in (shared, copied))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("one_bucket")
def test_generation_with_prompt_and_cache_equals_generation_without_cache(
    text_backbone: PromptedTextBackbone,
) -> None:
    rows = text_backbone.tokenize(INPUTS)
    prompts = random_prompts(text_backbone, len(rows))
    cached = text_backbone.generate(rows, prompts, max_new_tokens=16)
    assert cached == text_backbone.generate(rows, prompts, max_new_tokens=16, use_cache=False)
    assert any(cached)


def test_generation_without_a_prompt_is_the_stock_models_greedy_text(text_backbone: PromptedTextBackbone) -> None:
    model: Any = text_backbone.model
    rows = text_backbone.tokenize(INPUTS)
    # BART's generation config forces the first token and the last one, which comes after the compared tokens.
    forced = {"forced_bos_token_id": 0, "forced_eos_token_id": 2} if model.config.model_type == "bart" else {}
    for row, answer in zip(rows, text_backbone.generate(rows, None, max_new_tokens=12), strict=True):
        tokens = model.generate(
            input_ids=torch.tensor([row]),
            attention_mask=torch.ones(1, len(row), dtype=torch.long),
            max_new_tokens=12 + len(forced),
            do_sample=False,
            num_beams=1,
            pad_token_id=1,
            **forced,
        )[0].tolist()
        if isinstance(text_backbone, CausalBackbone):
            tokens = tokens[len(row) :]
        assert text_backbone.tokenizer.decode(tokens, skip_special_tokens=True).strip() == answer


def test_an_answers_confidence_is_the_geometric_mean_of_its_tokens_probabilities(
    text_backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = text_backbone.tokenize(INPUTS)
    second = int(stock_logits(text_backbone, rows[0], [*_greedy_tokens(text_backbone, rows[0], 1), 0])[-1].argmax())
    monkeypatch.setattr(text_backbone, "stop_tokens", frozenset({second}))
    for row, answer in zip(rows, text_backbone.answer(rows, None, max_new_tokens=5), strict=True):
        tokens = _greedy_tokens(text_backbone, row, 5)
        expected = stock_log_probabilities(text_backbone, row, tokens).mean().exp().item()
        assert answer.confidence == pytest.approx(expected, rel=1e-3)


def _greedy_tokens(backbone: PromptedTextBackbone, row: list[int], count: int) -> list[int]:
    """Return the stock model's most likely tokens, up to a stop token."""
    tokens: list[int] = []
    while len(tokens) < count and not (tokens and tokens[-1] in backbone.stop_tokens):
        tokens.append(int(stock_logits(backbone, row, [*tokens, 0])[-1].argmax()))
    return tokens


def test_generation_ends_at_a_stop_token(text_backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = text_backbone.tokenize(INPUTS[:1])
    first = int(stock_logits(text_backbone, rows[0], [0])[-1].argmax())
    monkeypatch.setattr(text_backbone, "stop_tokens", frozenset({first}))
    assert text_backbone.generate(rows, None, max_new_tokens=6) == [""]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_mean_over_the_targets_tokens(
    text_backbone: PromptedTextBackbone, smoothing: float
) -> None:
    rows, targets = text_backbone.tokenize(INPUTS), text_backbone.tokenize_targets(TARGETS)
    losses = text_backbone.target_cross_entropy(rows, targets, None, label_smoothing=smoothing)
    stock = [
        cross_entropy(stock_logits(text_backbone, row, target), torch.tensor(target), label_smoothing=smoothing)
        for row, target in zip(rows, targets, strict=True)
    ]
    torch.testing.assert_close(losses, torch.stack(stock), **CLOSE)


def test_targets_end_with_a_special_token_and_start_with_a_word(text_backbone: PromptedTextBackbone) -> None:
    (target,) = text_backbone.tokenize_targets(["good film"])
    words = text_backbone.tokenizer.convert_ids_to_tokens(target)
    assert words == ["good", "film", "</s>"]


def test_long_texts_are_cut_so_that_prompt_and_target_fit(text_backbone: PromptedTextBackbone) -> None:
    long_input = " ".join(["good", *["bad"] * 3000, "film"])
    rows, targets = text_backbone.tokenize([long_input]), text_backbone.tokenize_targets(["red " * 3000])
    assert len(rows[0]) == text_backbone.max_positions
    assert len(targets[0]) == text_backbone.max_target_tokens == text_backbone.max_positions // 2
    assert targets[0][-1] == text_backbone.tokenizer.eos_token_id
    prompts = random_prompts(text_backbone, 1)
    assert torch.isfinite(text_backbone.target_log_likelihood(rows, targets, prompts)).all()
    assert torch.isfinite(text_backbone.score_labels(rows, targets, prompts)).all()
    assert len(text_backbone.generate(rows, prompts, max_new_tokens=10_000)) == 1
    kept = text_backbone.tokenizer.convert_ids_to_tokens(rows[0])
    if isinstance(text_backbone, CausalBackbone):
        assert kept[-1] == "film"  # a causal model continues from the end of a text
    else:
        assert kept[-1] == "</s>"


def test_a_prompt_that_leaves_no_room_for_text_is_rejected(text_backbone: PromptedTextBackbone) -> None:
    rows = text_backbone.tokenize(["hello"])
    with pytest.raises(BackboneError, match="leave no room for text"):
        text_backbone.generate(rows, random_prompts(text_backbone, 1, text_backbone.max_positions))


def test_a_default_answer_leaves_room_for_text_beside_a_long_prompt(
    text_backbone: PromptedTextBackbone,
) -> None:
    positions = text_backbone.max_positions
    for length in (0, positions // 2 + 8, positions - 2):
        default = text_backbone.default_new_tokens(length)
        assert 1 <= default <= text_backbone.max_target_tokens
        assert text_backbone.max_input_tokens(length) >= max(1, (positions - length) // 2)
        assert (
            len(text_backbone.generate(text_backbone.tokenize(["hello"]), random_prompts(text_backbone, 1, length)))
            == 1
        )


def test_empty_and_too_long_targets_are_rejected(text_backbone: PromptedTextBackbone) -> None:
    rows = text_backbone.tokenize(["hello"])
    for target in ([], [5] * (text_backbone.max_target_tokens + 1)):
        with pytest.raises(BackboneError, match="expected 1 to"):
            text_backbone.target_log_likelihood(rows, [target], None)
    with pytest.raises(BackboneError, match="1 inputs have 2 targets"):
        text_backbone.target_log_likelihood(rows, [[5], [5]], None)


def test_an_empty_batch_gives_empty_results(text_backbone: PromptedTextBackbone) -> None:
    assert text_backbone.tokenize([]) == []
    assert text_backbone.generate([], None) == []
    assert text_backbone.score_labels([], [[5], [6]], None).shape == (0, 2)
    assert text_backbone.target_log_likelihood([], [], None).shape == (0,)


def test_an_empty_text_can_be_continued(text_backbone: PromptedTextBackbone) -> None:
    rows = text_backbone.tokenize([""])
    assert torch.isfinite(text_backbone.score_labels(rows, [[5, 6]], None)).all()


def test_the_model_is_frozen(text_backbone: PromptedTextBackbone) -> None:
    assert not any(parameter.requires_grad for parameter in text_backbone.model.parameters())
    assert not text_backbone.model.training
