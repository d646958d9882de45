"""The generation engine: whoever shares the batch, a text is the one that its row alone would be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import ipt
from ipt.backbones.text_backbone import PromptedTextBackbone
from ipt.generation.prefix_cache import PrefixCache
from tests.support.generation import INPUTS, asked, run, task, texts


def alone(engine: ipt.GenerationEngine, request: ipt.GenerationRequest) -> str:
    return run(engine, [request])[request.request_id].text


def test_greedy_text_of_mixed_tasks_is_the_backbones_own(engine: ipt.GenerationEngine) -> None:
    backbone = engine.backbone
    requests = [asked(engine, number) for number in range(8)]
    finished = run(engine, requests, at_once=2)
    for one in requests:
        prompts = engine.subspace.decoder(one.task.vector[None]).detach()
        wanted = backbone.generate(
            backbone.tokenize([one.text]), prompts, max_new_tokens=one.parameters.max_new_tokens, use_cache=False
        )
        assert [finished[one.request_id].text] == wanted
    assert len(set(texts(finished).values())) > 4


def test_rows_join_and_leave_a_running_batch(engine: ipt.GenerationEngine) -> None:
    requests = [asked(engine, number) for number in range(8)]
    engine.row_limit = 5
    assert texts(run(engine, requests, at_once=1)) == {one.request_id: alone(engine, one) for one in requests}


def test_on_a_causal_backbone_a_text_joins_the_batch_that_is_being_written(causal: ipt.GenerationEngine) -> None:
    causal.backbone.stop_tokens = frozenset()
    for number in range(3):
        causal.add(asked(causal, number, max_new_tokens=8))
        causal.step()
        assert [len(batch.rows) for batch in causal._batches] == [number + 1]


def test_a_drawn_text_is_that_of_its_seed_whoever_shares_the_batch(engine: ipt.GenerationEngine) -> None:
    ways: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2, "top_p": 0.8}, {"seed": 3, "top_k": 5}, {"temperature": 0}]
    requests = [
        asked(engine, number, **({"temperature": 30, "max_new_tokens": 9} | ways[number % 4])) for number in range(8)
    ]
    together = texts(run(engine, requests, at_once=3))
    assert together == {one.request_id: alone(engine, one) for one in requests}
    other = [asked(engine, 0, temperature=30, seed=seed) for seed in range(6)]
    assert len({alone(engine, one) for one in other}) > 4


def test_a_tasks_prompt_is_read_once_and_gives_the_same_logits(causal: ipt.GenerationEngine) -> None:
    backbone, tasks = causal.backbone, [task(causal, number) for number in (0, 1, 0, 2)]
    cache = PrefixCache(backbone, causal.subspace, 2**20)
    rows = backbone.tokenize(INPUTS)
    with torch.inference_mode():
        prompts = causal.subspace.decoder(torch.stack([one.vector for one in tasks]))
        plain = backbone.prefill(rows, prompts)
        for _ in range(2):
            behind = backbone.prefill_after_prompts(rows, cache.of(tasks))
            torch.testing.assert_close(behind.logits, plain.logits, atol=1e-4, rtol=1e-5)
        tokens = plain.logits.argmax(dim=1)[:, None]
        torch.testing.assert_close(behind.extend(tokens), plain.extend(tokens), atol=1e-4, rtol=1e-5)
    assert (cache.misses, cache.hits) == (3, 3)


def test_at_steady_state_a_prompt_costs_no_pass(causal: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    run(causal, [asked(causal, number) for number in range(6)])
    assert causal.prompts.misses == 3
    monkeypatch.setattr(causal.backbone, "prefill_prompts", None)
    run(causal, [asked(causal, number) for number in range(6)])


def test_prompts_are_kept_in_as_many_bytes_as_allowed(causal: ipt.GenerationEngine) -> None:
    one = PrefixCache(causal.backbone, causal.subspace, 2**20)
    with torch.inference_mode():
        size = one.of([task(causal, 0)]).nbytes
        cache = PrefixCache(causal.backbone, causal.subspace, 2 * size)
        for number in (0, 1, 0, 2, 0, 1):  # 1 makes room for 2, and 2 for 1
            cache.of([task(causal, number)])
            assert cache.bytes <= 2 * size
        assert (cache.hits, cache.misses) == (2, 4)
        nothing = PrefixCache(causal.backbone, causal.subspace, 0)
        torch.testing.assert_close(nothing.of([task(causal, 1)]), cache.of([task(causal, 1)]), rtol=0, atol=1e-6)
        assert nothing.bytes == 0


def test_an_input_too_long_is_shortened_and_the_prompt_is_not(engine: ipt.GenerationEngine) -> None:
    bounded = engine.backbone.max_positions <= 64  # T5 has as many positions as one likes: nothing is too long
    text = "the cat " * (4000 if bounded else 40) + "sat"
    long = ipt.GenerationRequest("long", task(engine, 1), text, asked(engine).parameters)
    finished = run(engine, [long, asked(engine, 0)])
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
def test_more_tokens_than_the_backbone_can_write_are_refused(causal: ipt.GenerationEngine, tokens: int) -> None:
    with pytest.raises(ipt.IptError, match=f"at most 32, .* got {tokens}") as caught:
        causal.add(asked(causal, max_new_tokens=tokens))
    assert caught.value.param == "max_new_tokens"
    assert causal.idle


def test_a_prompt_that_leaves_no_room_is_refused(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ipt.GenerationEngine(*tiny("gpt2"))
    monkeypatch.setattr(engine.backbone, "max_positions", 20)
    with pytest.raises(ipt.IptError, match="leave no room for text"):
        engine.add(asked(engine, max_new_tokens=16))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": float("nan")}, "temperature must be 0 to 100"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_beams": 17}, "num_beams must be 1 to 16"),
        ({"num_beams": 2, "temperature": 1.0}, "must be 1 where temperature"),
        ({"stop": ("",)}, r"stop\[0\] must have 1 to 128 characters, got 0"),
        ({"stop": ("x" * 2**20,)}, "got 1048576"),
        ({"stop": ("x",) * 5}, "at most 4 strings"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ipt.IptError, match=says):
        ipt.GenerationParameters(**parameters)


def test_a_stop_string_ends_a_text_wherever_its_tokens_begin(engine: ipt.GenerationEngine) -> None:
    whole = alone(engine, asked(engine, 3, temperature=2.0, seed=4))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    finished = run(engine, [asked(engine, 3, temperature=2.0, seed=4, stop=(stop, "no such thing"))])["r3"]
    assert finished.text == whole[: whole.index(stop)].strip()
    assert finished.reason == "stop"
    assert finished.generated_tokens < 15


def test_a_text_ends_at_a_stop_token_or_at_its_length(
    engine: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = run(engine, [asked(engine, 1, max_new_tokens=4)])["r1"]
    assert (finished.reason, finished.generated_tokens) == ("length", 4)
    monkeypatch.setattr(engine.backbone, "stop_tokens", frozenset(range(engine.backbone.model.config.vocab_size)))
    finished = run(engine, [asked(engine, 1)])["r1"]
    assert (finished.reason, finished.generated_tokens, finished.text) == ("stop", 1, "")


def test_a_cancelled_text_leaves_the_batch_and_the_others_stay(engine: ipt.GenerationEngine) -> None:
    requests = [asked(engine, number, max_new_tokens=12) for number in range(4)]
    wanted = {one.request_id: alone(engine, one) for one in requests}
    engine.row_limit = 3
    for one in requests:
        engine.add(one)
    events = engine.step()
    assert engine.running_rows == 3
    for gone in ("r0", "r3", "never there"):
        engine.cancel(gone)
    finished = {}
    while not engine.idle:
        events += engine.step()
        assert engine.running_rows <= 2
    finished = {event.request_id: event for event in events if isinstance(event, ipt.TextFinished)}
    assert {key: event.reason for key, event in finished.items() if event.reason == "cancelled"} == {
        "r0": "cancelled",
        "r3": "cancelled",
    }
    assert [finished[key].text for key in ("r1", "r2")] == [wanted["r1"], wanted["r2"]]


class OutOfMemory:
    """A model that has memory for so many rows, and raises what the real one does beyond."""

    def __init__(self, backbone: PromptedTextBackbone, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.rows, self.raised = rows, 0
        model: Any = backbone.model
        forward = model.forward

        def limited(*given: Any, **named: Any) -> Any:
            tokens = named.get("input_ids") if named.get("input_ids") is not None else named.get("decoder_input_ids")
            assert tokens is not None
            if len(tokens) > self.rows:
                self.raised += 1
                raise torch.OutOfMemoryError("out of memory")
            return forward(*given, **named)

        monkeypatch.setattr(model, "forward", limited)


def test_out_of_memory_halves_the_batch_and_no_text_is_lost(
    engine: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asked(engine, number, temperature=number % 2, seed=number) for number in range(8)]
    requests.append(asked(engine, 8, num_beams=2))
    wanted = {one.request_id: alone(engine, one) for one in requests}
    memory = OutOfMemory(engine.backbone, monkeypatch, rows=3)
    assert texts(run(engine, requests, at_once=4)) == wanted
    assert memory.raised
    assert engine.row_limit <= 3
    monkeypatch.setattr("ipt.generation.engine.STEPS_TO_RECOVER", 2)
    memory.rows = 100
    run(engine, requests)
    assert engine.row_limit > 3


def test_a_text_that_fails_alone_fails_for_good_and_the_others_go_on(
    causal: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asked(causal, number, max_new_tokens=8) for number in range(4)]
    wanted = {one.request_id: alone(causal, one) for one in requests}
    prefill_after_prompts = causal.backbone.prefill_after_prompts

    def failing(inputs: Any, read: Any) -> Any:
        if causal.backbone.tokenize([INPUTS[2]])[0] in inputs:
            raise RuntimeError("this input")
        return prefill_after_prompts(inputs, read)

    monkeypatch.setattr(causal.backbone, "prefill_after_prompts", failing)
    finished = run(causal, requests)
    assert {key for key, event in finished.items() if event.reason == "failed"} == {"r2"}
    assert isinstance(finished["r2"].error, RuntimeError)
    assert all(finished[key].text == wanted[key] for key in ("r0", "r1", "r3"))
    memory = OutOfMemory(causal.backbone, monkeypatch, rows=0)
    failed = run(causal, [asked(causal, 0)])["r0"]
    assert (failed.reason, isinstance(failed.error, torch.OutOfMemoryError), memory.raised) == ("failed", True, 1)


def test_a_text_for_which_there_was_no_memory_beside_others_is_tried_alone(
    causal: ipt.GenerationEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = alone(causal, asked(causal, 1))
    prefill_after_prompts, raised = causal.backbone.prefill_after_prompts, []

    def crowded(inputs: Any, read: Any) -> Any:
        if causal.running_rows:
            raised.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return prefill_after_prompts(inputs, read)

    monkeypatch.setattr(causal.backbone, "prefill_after_prompts", crowded)
    causal.add(asked(causal, 0, max_new_tokens=2))
    causal.step()
    causal.add(asked(causal, 1))
    events = causal.step()  # in which the first one ends
    assert raised
    while not causal.idle:
        events += causal.step()
    assert [(event.reason, event.text) for event in events if isinstance(event, ipt.TextFinished)][1][1] == wanted


def test_an_encoder_writes_nothing(encoder: ipt.Backbone, subspace: ipt.Subspace) -> None:
    with pytest.raises(ipt.BackboneError, match="is an encoder, which classifies but does not write text"):
        ipt.GenerationEngine(encoder, subspace)


def test_a_text_that_is_none_is_refused(causal: ipt.GenerationEngine) -> None:
    with pytest.raises(ipt.IptError, match="NUL"):
        causal.add(replace(asked(causal), text="a\x00b"))


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_find_what_transformers_finds(tiny: Callable[..., Any], beams: int) -> None:
    for kind in ("gpt2", "llama", "t5"):
        engine = ipt.GenerationEngine(*tiny(kind))
        model: Any = engine.backbone.model
        for number, text in enumerate(INPUTS):
            search = asked(engine, number, num_beams=beams, max_new_tokens=12)
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
    """What the engine writes where the stock model's rows stand behind no prompt."""
    backbone = engine.backbone
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine.prompts, "of", lambda _: None)
        patched.setattr(backbone, "prefill_after_prompts", backbone.prefill)
        return run(engine, [request])[request.request_id].text


def test_beams_behind_prompts_share_batches(engine: ipt.GenerationEngine) -> None:
    requests = [asked(engine, number, num_beams=1 + number % 3) for number in range(6)]
    wanted = {one.request_id: alone(engine, one) for one in requests}
    engine.row_limit = 4
    assert texts(run(engine, requests, at_once=2)) == wanted
