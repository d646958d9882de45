"""The cache that is written into in place, against transformers' own, which copies."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ipt.backbones.kv_cache import ROOM, growing_cache
from ipt.backbones.text_backbone import select_cache_rows

LAYERS = 2
ROWS = 3


def positions(count: int, seed: int, rows: int = ROWS) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of so many positions, for each layer, lying as a model hands them over."""
    drawn = torch.randn(LAYERS, 2, rows, count, 2, 4, generator=torch.Generator().manual_seed(seed))
    return [(keys.transpose(1, 2), values.transpose(1, 2)) for keys, values in drawn]


def extended(cache: Any, new: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """What each layer answers."""
    return [cache.update(keys, values, number) for number, (keys, values) in enumerate(new)]


def held(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def places(cache: Any) -> list[int]:
    """Where in memory the keys and values begin."""
    return [part.data_ptr() for pair in held(cache) for part in pair]


def assert_same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> None:
    torch.testing.assert_close(one, other, atol=0, rtol=0)


def bytes_of(cache: Any) -> int:
    """What it keeps in memory, room included."""
    storages = [part.untyped_storage() for pair in held(cache) for part in pair]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_it_answers_as_transformers_own_cache_does() -> None:
    ours, theirs = growing_cache(), DynamicCache()
    assert ours.get_seq_length() == 0
    # Past the room twice over, and several positions at a time as well as one by one.
    for step, count in enumerate([7, 1, 1, 5, *[1] * (2 * ROOM), ROOM + 3, 1]):
        new = positions(count, step)
        assert ours.get_mask_sizes(count, 0) == theirs.get_mask_sizes(count, 0)
        assert_same(extended(ours, new), extended(theirs, new))
        assert ours.get_seq_length() == theirs.get_seq_length()
    assert_same(held(ours), held(theirs))


def test_while_there_is_room_tokens_are_written_in_place() -> None:
    cache = growing_cache(positions(7, 0), coming=5)
    begun = places(cache)
    extended(cache, positions(5, 1))
    for step in range(ROOM):
        extended(cache, positions(1, 2 + step))
        assert places(cache) == begun
    extended(cache, positions(1, 2))
    assert places(cache) != begun


def test_a_first_extension_takes_no_more_than_it_needs_and_later_ones_make_room() -> None:
    cache = growing_cache()
    extended(cache, positions(7, 0))
    extended(cache, positions(3, 1))
    position = bytes_of(cache) // 10
    assert bytes_of(cache) == sum(part.nbytes for pair in held(cache) for part in pair)
    for step in range(3 * ROOM):
        extended(cache, positions(1, step))
        assert bytes_of(cache) <= position * (cache.get_seq_length() + ROOM)


def test_what_was_handed_over_or_answered_stays_as_it_is() -> None:
    past = positions(4, 0)
    before = [(keys.clone(), values.clone()) for keys, values in past]
    cache = growing_cache(past)
    answered = extended(cache, positions(1, 1))
    kept = [(keys.clone(), values.clone()) for keys, values in answered]
    extended(cache, positions(2, 2))
    assert_same(past, before)
    assert_same(answered, kept)


def test_rows_that_were_picked_and_those_that_they_were_picked_of_go_on_apart() -> None:
    ours, theirs = growing_cache(positions(4, 0)), DynamicCache(positions(4, 0))
    for step in range(3):
        extended(ours, positions(1, 1 + step))
        extended(theirs, positions(1, 1 + step))
    wanted = torch.tensor([2, 0, 2, 1])
    picked, stock = select_cache_rows(ours, wanted), select_cache_rows(theirs, wanted)
    for step in range(3):
        assert_same(extended(ours, positions(1, 10 + step)), extended(theirs, positions(1, 10 + step)))
        new = positions(1, 20 + step, rows=4)
        assert_same(extended(picked, new), extended(stock, new))


def test_rows_that_have_left_give_their_memory_back() -> None:
    cache = growing_cache(positions(100, 0))
    extended(cache, positions(1, 1))
    all_rows = bytes_of(cache)
    assert bytes_of(select_cache_rows(cache, torch.tensor([1]))) < all_rows // ROWS


def test_cut_and_rearranged_it_still_goes_on_as_transformers_own() -> None:
    ours, theirs = growing_cache(positions(4, 0)), DynamicCache(positions(4, 0))
    for cache in (ours, theirs):
        extended(cache, positions(2, 1))
        cache.crop(-3)
        cache.reorder_cache(torch.tensor([1, 0, 0]))
        extended(cache, positions(1, 2))
        cache.batch_repeat_interleave(2)
        extended(cache, positions(1, 3, rows=2 * ROWS))
    assert_same(held(ours), held(theirs))


def test_what_was_emptied_begins_anew() -> None:
    cache = growing_cache(positions(4, 0))
    cache.reset()
    assert cache.get_seq_length() == 0
    new = positions(2, 1)
    assert_same(extended(cache, new), new)


def test_gradients_flow_through_an_extension() -> None:
    new = positions(3, 1)
    for keys, values in new:
        keys.requires_grad_()
        values.requires_grad_()
    for cache in (growing_cache(positions(4, 0)), growing_cache()):
        extended(cache, new)
        total = torch.stack([part.square().sum() for pair in held(cache) for part in pair]).sum()
        gradients = torch.autograd.grad(total, [part for pair in new for part in pair])
        torch.testing.assert_close(list(gradients), [2 * part for pair in new for part in pair])
