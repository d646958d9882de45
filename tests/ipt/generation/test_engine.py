"""The generation engine: a text does not depend on the other texts of its batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import ipt
from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.generation.prefix_cache import PrefixCache
from tests.support.generation import INPUTS, make_request, run, task, texts


def text_alone(engine: ipt.GenerationEngine, request: ipt.GenerationRequest) -> str:
    return run(engine, [request])[request.request_id].text


def test_greedy_texts_of_mixed_tasks_equal_those_of_the_backbone(engine: ipt.GenerationEngine) -> None:
    backbone = engine.backbone
    requests = [make_request(engine, number) for number in range(8)]
    finished = run(engine, requests, per_step=2)
    for each in requests:
        prompts = engine.subspace.decoder(each.task.vector[None]).detach()
        expected = backbone.generate(
            backbone.tokenize([each.text]), prompts, max_new_tokens=each.parameters.max_new_tokens, use_cache=False
        )
        assert [finished[each.request_id].text] == expected
    assert len(set(texts(finished).values())) > 4


def test_rows_join_and_leave_a_running_batch(engine: ipt.GenerationEngine) -> None:
    requests = [make_request(engine, number) for number in range(8)]
    engine.row_limit = 5
    assert texts(run(engine, requests, per_step=1)) == {each.request_id: text_alone(engine, each) for each in requests}


def test_on_a_causal_backbone_a_text_joins_the_running_batch(causal: ipt.GenerationEngine) -> None:
    causal.backbone.stop_tokens = frozenset()
    for number in range(3):
        causal.add(make_request(causal, number, max_new_tokens=8))
        causal.step()
        assert [len(batch.texts) for batch in causal._batches] == [number + 1]


def test_a_sampled_text_depends_on_its_seed_and_not_on_its_batch(engine: ipt.GenerationEngine) -> None:
    variants: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 2, "top_p": 0.8},
        {"seed": 3, "top_k": 5},
        {"temperature": 0},
    ]
    requests = [
        make_request(engine, number, **({"temperature": 30, "max_new_tokens": 9} | variants[number % 4]))
        for number in range(8)
    ]
    together = texts(run(engine, requests, per_step=3))
    assert together == {each.request_id: text_alone(engine, each) for each in requests}
    other = [make_request(engine, 0, temperature=30, seed=seed) for seed in range(6)]
    assert len({text_alone(engine, each) for each in other}) > 4


def test_a_cached_prompt_is_read_once_and_gives_the_same_logits(causal: ipt.GenerationEngine) -> None:
    backbone, tasks = causal.backbone, [task(causal, number) for number in (0, 1, 0, 2)]
    cache = PrefixCache(backbone, causal.subspace, 2**20)
    rows = backbone.tokenize(INPUTS)
    with torch.inference_mode():
        prompts = causal.subspace.decoder(torch.stack([each.vector for each in tasks]))
        plain = backbone.prefill(rows, prompts)
        for _ in range(2):
            cached = backbone.prefill_after_prompts(rows, cache.of(tasks))
            torch.testing.assert_close(cached.logits, plain.logits, atol=1e-4, rtol=1e-5)
        tokens = plain.logits.argmax(dim=1)[:, None]
        torch.testing.assert_close(cached.extend(tokens), plain.extend(tokens), atol=1e-4, rtol=1e-5)
    assert (cache.misses, cache.hits) == (3, 3)


def test_a_cached_prompt_is_not_read_again(causal: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    run(causal, [make_request(causal, number) for number in range(6)])
    assert causal.prompts.misses == 3
    monkeypatch.setattr(causal.backbone, "prefill_prompts", None)
    run(causal, [make_request(causal, number) for number in range(6)])


def test_the_prefix_cache_stays_within_its_bytes(causal: ipt.GenerationEngine) -> None:
    large = PrefixCache(causal.backbone, causal.subspace, 2**20)
    with torch.inference_mode():
        size = large.of([task(causal, 0)]).nbytes
        cache = PrefixCache(causal.backbone, causal.subspace, 2 * size)
        for number in (0, 1, 0, 2, 0, 1):  # 2 evicts 1, then 1 evicts 2
            cache.of([task(causal, number)])
            assert cache.bytes <= 2 * size
        assert (cache.hits, cache.misses) == (2, 4)
        empty = PrefixCache(causal.backbone, causal.subspace, 0)
        torch.testing.assert_close(empty.of([task(causal, 1)]), cache.of([task(causal, 1)]), rtol=0, atol=1e-6)
        assert empty.bytes == 0


def test_a_long_input_is_truncated_and_the_prompt_is_not(engine: ipt.GenerationEngine) -> None:
    bounded = engine.backbone.max_positions <= 64  # T5 has no limit of positions
    text = "the cat " * (4000 if bounded else 40) + "sat"
    long = ipt.GenerationRequest("long", task(engine, 1), text, make_request(engine).parameters)
    finished = run(engine, [long, make_request(engine, 0)])
    if not bounded:
        assert not finished["long"].truncated
        assert finished["long"].input_tokens == len(engine.backbone.tokenize([text])[0]) > 64
        return
    assert finished["long"].truncated
    assert not finished["r0"].truncated
    length = finished["long"].input_tokens
    room = 64 - engine.subspace.prompt_length
    assert length == (room if engine.backbone.family == "seq2seq" else room - long.parameters.max_new_tokens)
    prompts = engine.subspace.decoder(long.task.vector[None]).detach()
    rows = engine.backbone.tokenize([long.text])
    assert engine.backbone.generate(rows, prompts, max_new_tokens=6) == [finished["long"].text]


@pytest.mark.parametrize("tokens", [33, 10**9])
def test_more_tokens_than_the_backbone_can_write_are_rejected(causal: ipt.GenerationEngine, tokens: int) -> None:
    with pytest.raises(ipt.IptError, match=f"at most 32, .* got {tokens}") as raised:
        causal.add(make_request(causal, max_new_tokens=tokens))
    assert raised.value.param == "max_new_tokens"
    assert causal.idle


def test_a_prompt_that_leaves_no_room_is_rejected(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ipt.GenerationEngine(*tiny("gpt2"))
    monkeypatch.setattr(engine.backbone, "max_positions", 20)
    with pytest.raises(ipt.IptError, match="leave no room for text"):
        engine.add(make_request(engine, max_new_tokens=16))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": float("nan")}, "temperature must be 0 to 100"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_beams": 17}, "num_beams must be 1 to 16"),
        ({"num_beams": 2, "temperature": 1.0}, "must be 1 if temperature"),
        ({"stop": ("",)}, r"stop\[0\] must have 1 to 128 characters, got 0"),
        ({"stop": ("x" * 2**20,)}, "got 1048576"),
        ({"stop": ("x",) * 5}, "at most 4 strings"),
    ],
)
def test_parameters_out_of_range_are_rejected(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ipt.IptError, match=message):
        ipt.GenerationParameters(**parameters)


def test_a_stop_string_ends_a_text_across_token_boundaries(engine: ipt.GenerationEngine) -> None:
    whole = text_alone(engine, make_request(engine, 3, temperature=2.0, seed=4))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    finished = run(engine, [make_request(engine, 3, temperature=2.0, seed=4, stop=(stop, "absent"))])["r3"]
    assert finished.text == whole[: whole.index(stop)].strip()
    assert finished.reason == "stop"
    assert finished.generated_tokens < 15


def test_a_text_ends_at_a_stop_token_or_at_its_maximum_length(
    engine: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = run(engine, [make_request(engine, 1, max_new_tokens=4)])["r1"]
    assert (finished.reason, finished.generated_tokens) == ("length", 4)
    monkeypatch.setattr(engine.backbone, "stop_tokens", frozenset(range(engine.backbone.model.config.vocab_size)))
    finished = run(engine, [make_request(engine, 1)])["r1"]
    assert (finished.reason, finished.generated_tokens, finished.text) == ("stop", 1, "")


def test_a_cancelled_text_leaves_the_batch_and_the_others_continue(engine: ipt.GenerationEngine) -> None:
    requests = [make_request(engine, number, max_new_tokens=12) for number in range(4)]
    expected = {each.request_id: text_alone(engine, each) for each in requests}
    engine.row_limit = 3
    for each in requests:
        engine.add(each)
    events = engine.step()
    assert engine.running_rows == 3
    for request_id in ("r0", "r3", "unknown"):
        engine.cancel(request_id)
    while not engine.idle:
        events += engine.step()
        assert engine.running_rows <= 2
    finished = {event.request_id: event for event in events if isinstance(event, ipt.TextFinished)}
    assert {key: event.reason for key, event in finished.items() if event.reason == "cancelled"} == {
        "r0": "cancelled",
        "r3": "cancelled",
    }
    assert [finished[key].text for key in ("r1", "r2")] == [expected["r1"], expected["r2"]]


class OutOfMemory:
    """Limits a model to some rows; more rows raise the same error as a device without memory."""

    def __init__(self, backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.rows, self.raised = rows, 0
        model: Any = backbone.model
        forward = model.forward

        def limited(*args: Any, **kwargs: Any) -> Any:
            tokens = kwargs.get("input_ids")
            tokens = kwargs.get("decoder_input_ids") if tokens is None else tokens
            assert tokens is not None
            if len(tokens) > self.rows:
                self.raised += 1
                raise torch.OutOfMemoryError("out of memory")
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", limited)


def test_out_of_memory_halves_the_batch_and_no_text_is_lost(
    engine: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [make_request(engine, number, temperature=number % 2, seed=number) for number in range(8)]
    requests.append(make_request(engine, 8, num_beams=2))
    expected = {each.request_id: text_alone(engine, each) for each in requests}
    memory = OutOfMemory(engine.backbone, monkeypatch, rows=3)
    assert texts(run(engine, requests, per_step=4)) == expected
    assert memory.raised
    assert engine.row_limit <= 3
    monkeypatch.setattr("ipt.generation.engine.STEPS_TO_RECOVER", 2)
    memory.rows = 100
    run(engine, requests)
    assert engine.row_limit > 3


def test_a_text_that_fails_alone_ends_and_the_others_continue(
    causal: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [make_request(causal, number, max_new_tokens=8) for number in range(4)]
    expected = {each.request_id: text_alone(causal, each) for each in requests}
    prefill_after_prompts = causal.backbone.prefill_after_prompts

    def failing(inputs: Any, prompts: Any) -> Any:
        if causal.backbone.tokenize([INPUTS[2]])[0] in inputs:
            raise RuntimeError("this input")
        return prefill_after_prompts(inputs, prompts)

    monkeypatch.setattr(causal.backbone, "prefill_after_prompts", failing)
    finished = run(causal, requests)
    assert {key for key, event in finished.items() if event.reason == "failed"} == {"r2"}
    assert isinstance(finished["r2"].error, RuntimeError)
    assert all(finished[key].text == expected[key] for key in ("r0", "r1", "r3"))
    memory = OutOfMemory(causal.backbone, monkeypatch, rows=0)
    failed = run(causal, [make_request(causal, 0)])["r0"]
    assert (failed.reason, isinstance(failed.error, torch.OutOfMemoryError), memory.raised) == ("failed", True, 1)


def test_a_text_without_memory_beside_others_is_tried_alone(
    causal: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = text_alone(causal, make_request(causal, 1))
    prefill_after_prompts, raised = causal.backbone.prefill_after_prompts, []

    def fails_beside_others(inputs: Any, prompts: Any) -> Any:
        if causal.running_rows:
            raised.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return prefill_after_prompts(inputs, prompts)

    monkeypatch.setattr(causal.backbone, "prefill_after_prompts", fails_beside_others)
    causal.add(make_request(causal, 0, max_new_tokens=2))
    causal.step()
    causal.add(make_request(causal, 1))
    events = causal.step()  # the first text ends here
    assert raised
    while not causal.idle:
        events += causal.step()
    assert [(event.reason, event.text) for event in events if isinstance(event, ipt.TextFinished)][1][1] == expected


def test_an_encoder_is_rejected(encoder: ipt.Backbone, subspace: ipt.Subspace) -> None:
    with pytest.raises(ipt.BackboneError, match="is an encoder, which classifies but does not write text"):
        ipt.GenerationEngine(encoder, subspace)


def test_an_invalid_text_is_rejected(causal: ipt.GenerationEngine) -> None:
    with pytest.raises(ipt.IptError, match="NUL"):
        causal.add(replace(make_request(causal), text="a\x00b"))


@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_equals_that_of_transformers(tiny: Callable[..., Any], beams: int) -> None:
    for kind in ("gpt2", "llama", "t5"):
        engine = ipt.GenerationEngine(*tiny(kind))
        model: Any = engine.backbone.model
        for number, text in enumerate(INPUTS):
            search = make_request(engine, number, num_beams=beams, max_new_tokens=12)
            row = torch.tensor(engine.backbone.tokenize([text]))
            stock = model.generate(
                input_ids=row,
                attention_mask=torch.ones_like(row),
                num_beams=beams,
                max_new_tokens=12,
                do_sample=False,
                pad_token_id=1,
            )[0].tolist()
            written = stock[row.shape[1] :] if engine.backbone.family == "causal" else stock[1:]
            decoded = engine.backbone.decode([token for token in written if token != 1]).strip()
            assert _without_prompt(engine, search) == decoded


def _without_prompt(engine: ipt.GenerationEngine, request: ipt.GenerationRequest) -> str:
    """Generate without a prompt, like the stock model."""
    backbone = engine.backbone
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine.prompts, "of", lambda _: None)
        patched.setattr(backbone, "prefill_after_prompts", backbone.prefill)
        return run(engine, [request])[request.request_id].text


def test_beam_searches_with_prompts_share_batches(engine: ipt.GenerationEngine) -> None:
    requests = [make_request(engine, number, num_beams=1 + number % 3) for number in range(6)]
    expected = {each.request_id: text_alone(engine, each) for each in requests}
    engine.row_limit = 4
    assert texts(run(engine, requests, per_step=2)) == expected
