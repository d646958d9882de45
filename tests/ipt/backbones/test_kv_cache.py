"""The in-place key-value cache, compared with transformers' own cache, which copies."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ipt.backbones.kv_cache import ROOM, growing_cache
from ipt.backbones.text_backbone import select_cache_rows

LAYERS = 2
ROWS = 3


def positions(count: int, seed: int, rows: int = ROWS) -> list[tuple[Tensor, Tensor]]:
    """Return keys and values of `count` positions for each layer, in the memory layout that a model passes."""
    drawn = torch.randn(LAYERS, 2, rows, count, 2, 4, generator=torch.Generator().manual_seed(seed))
    return [(keys.transpose(1, 2), values.transpose(1, 2)) for keys, values in drawn]


def extended(cache: Any, new: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Append positions and return what each layer returns."""
    return [cache.update(keys, values, number) for number, (keys, values) in enumerate(new)]


def contents(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def addresses(cache: Any) -> list[int]:
    """Return the memory addresses of the keys and values."""
    return [part.data_ptr() for pair in contents(cache) for part in pair]


def assert_same(actual: list[tuple[Tensor, Tensor]], expected: list[tuple[Tensor, Tensor]]) -> None:
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)


def bytes_of(cache: Any) -> int:
    """Return the memory that the cache holds, spare room included."""
    storages = [part.untyped_storage() for pair in contents(cache) for part in pair]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_it_returns_the_same_as_transformers_own_cache() -> None:
    ours, theirs = growing_cache(), DynamicCache()
    assert ours.get_seq_length() == 0
    # Exceeds the room twice, with single positions and with several at a time.
    for step, count in enumerate([7, 1, 1, 5, *[1] * (2 * ROOM), ROOM + 3, 1]):
        new = positions(count, step)
        assert ours.get_mask_sizes(count, 0) == theirs.get_mask_sizes(count, 0)
        assert_same(extended(ours, new), extended(theirs, new))
        assert ours.get_seq_length() == theirs.get_seq_length()
    assert_same(contents(ours), contents(theirs))


def test_tokens_are_written_in_place_until_the_room_is_full() -> None:
    cache = growing_cache(positions(7, 0), expected_positions=5)
    initial = addresses(cache)
    extended(cache, positions(5, 1))
    for step in range(ROOM):
        extended(cache, positions(1, 2 + step))
        assert addresses(cache) == initial
    extended(cache, positions(1, 2))
    assert addresses(cache) != initial


def test_the_first_extension_has_no_spare_room_and_later_ones_have() -> None:
    cache = growing_cache()
    extended(cache, positions(7, 0))
    extended(cache, positions(3, 1))
    position = bytes_of(cache) // 10
    assert bytes_of(cache) == sum(part.nbytes for pair in contents(cache) for part in pair)
    for step in range(3 * ROOM):
        extended(cache, positions(1, step))
        assert bytes_of(cache) <= position * (cache.get_seq_length() + ROOM)


def test_given_and_returned_tensors_are_not_overwritten() -> None:
    past = positions(4, 0)
    before = [(keys.clone(), values.clone()) for keys, values in past]
    cache = growing_cache(past)
    returned = extended(cache, positions(1, 1))
    kept = [(keys.clone(), values.clone()) for keys, values in returned]
    extended(cache, positions(2, 2))
    assert_same(past, before)
    assert_same(returned, kept)


def test_a_selection_and_its_original_are_independent() -> None:
    ours, theirs = growing_cache(positions(4, 0)), DynamicCache(positions(4, 0))
    for step in range(3):
        extended(ours, positions(1, 1 + step))
        extended(theirs, positions(1, 1 + step))
    rows = torch.tensor([2, 0, 2, 1])
    selected, stock = select_cache_rows(ours, rows), select_cache_rows(theirs, rows)
    for step in range(3):
        assert_same(extended(ours, positions(1, 10 + step)), extended(theirs, positions(1, 10 + step)))
        new = positions(1, 20 + step, rows=4)
        assert_same(extended(selected, new), extended(stock, new))


def test_selecting_fewer_rows_frees_memory() -> None:
    cache = growing_cache(positions(100, 0))
    extended(cache, positions(1, 1))
    all_rows = bytes_of(cache)
    assert bytes_of(select_cache_rows(cache, torch.tensor([1]))) < all_rows // ROWS


def test_crop_reorder_and_repeat_equal_transformers_own_cache() -> None:
    ours, theirs = growing_cache(positions(4, 0)), DynamicCache(positions(4, 0))
    for cache in (ours, theirs):
        extended(cache, positions(2, 1))
        cache.crop(-3)
        cache.reorder_cache(torch.tensor([1, 0, 0]))
        extended(cache, positions(1, 2))
        cache.batch_repeat_interleave(2)
        extended(cache, positions(1, 3, rows=2 * ROWS))
    assert_same(contents(ours), contents(theirs))


def test_a_reset_cache_is_empty() -> None:
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
        total = torch.stack([part.square().sum() for pair in contents(cache) for part in pair]).sum()
        gradients = torch.autograd.grad(total, [part for pair in new for part in pair])
        torch.testing.assert_close(list(gradients), [2 * part for pair in new for part in pair])
