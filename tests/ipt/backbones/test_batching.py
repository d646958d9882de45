"""Batching: buckets of similar length, padding, and chunks of limited size."""

import random

import pytest
import torch

from ipt.backbones.batching import consecutive_chunks, forward_in_buckets, length_buckets, right_padded
from ipt.runtime.work_counter import work_counter


def test_no_rows_make_no_buckets() -> None:
    assert length_buckets([], 100, 0.1) == []


def test_rows_of_equal_length_share_a_bucket_in_their_order() -> None:
    assert length_buckets([7] * 5, 100, 0.0) == [[0, 1, 2, 3, 4]]


def test_a_bucket_has_at_most_the_given_padded_tokens() -> None:
    assert length_buckets([10] * 5, 20, 1.0) == [[0, 1], [2, 3], [4]]


def test_a_row_longer_than_a_bucket_gets_its_own() -> None:
    assert length_buckets([3, 50], 20, 1.0) == [[1], [0]]


def test_a_bucket_closes_before_padding_exceeds_max_waste() -> None:
    assert length_buckets([10, 9, 1], 100, 0.1) == [[0, 1], [2]]


def test_free_padding_is_allowed_beyond_max_waste() -> None:
    assert length_buckets([24, 8], 100, 0.1, free_padding=16) == [[0, 1]]
    assert length_buckets([24, 8], 100, 0.1, free_padding=15) == [[0], [1]]
    assert length_buckets([24, 8], 47, 0.1, free_padding=16) == [[0], [1]]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_bucket_and_both_limits_hold(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 60) for _ in range(rng.randint(1, 80))]
    limit, waste, free = rng.randint(60, 500), rng.random() / 2, rng.choice([0, 20, 100])
    buckets = length_buckets(lengths, limit, waste, free)
    assert sorted(row for bucket in buckets for row in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        padded = len(bucket) * max(lengths[row] for row in bucket)
        assert padded <= limit
        assert padded - sum(lengths[row] for row in bucket) <= max(waste * padded, free) + 1e-9


def test_results_are_in_the_order_of_the_rows_with_gradients() -> None:
    lengths = [5, 1, 9, 1, 30, 2]
    prompts = torch.arange(12.0).view(6, 1, 2).requires_grad_()

    def forward(rows: list[int], bucket_prompts: torch.Tensor | None) -> torch.Tensor:
        assert bucket_prompts is not None
        return bucket_prompts[:, 0] * torch.tensor([[lengths[row]] for row in rows])

    results = forward_in_buckets(lengths, prompts, torch.device("cpu"), 2, forward)
    assert torch.equal(results, prompts[:, 0] * torch.tensor(lengths)[:, None])
    results[2].sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.flatten().tolist() == [0, 0, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0]


def test_rows_are_padded_at_their_end() -> None:
    assert [each.shape for each in right_padded([], min_width=3)] == [(0, 3), (0,)]
    assert right_padded([[1], [2, 3]], min_width=3)[0].tolist() == [[1, 0, 0], [2, 3, 0]]
    padded, lengths = right_padded([[1, 2, 3], [4]], padding=-100)
    assert padded.tolist() == [[1, 2, 3], [4, -100, -100]]
    assert lengths.tolist() == [3, 1]


def test_chunks_are_consecutive_and_within_the_limit() -> None:
    assert consecutive_chunks([], 10) == []
    assert consecutive_chunks([4, 6, 1, 9, 1], 10) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert consecutive_chunks([3, 50, 3], 10) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_each_bucket_counts_as_work_that_a_watchdog_sees() -> None:
    seen: list[int] = []

    def forward(bucket: list[int], _: torch.Tensor | None) -> torch.Tensor:
        seen.append(work_counter.passes)
        return torch.zeros(len(bucket))

    for lengths in ([8_000, 50, 1], [3]):
        before = work_counter.passes
        seen.clear()
        forward_in_buckets(lengths, None, torch.device("cpu"), 8, forward)
        assert before < seen[0]
        assert len(set(seen)) == len(seen)
        assert work_counter.passes >= seen[-1]
