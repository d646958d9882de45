"""The prompts kept between batches: the right ones, decoded once, and never more than the memory they may take."""

from collections.abc import Sequence

import pytest
import torch

from ipt.prediction.prompt_cache import PromptCache
from ipt.subspace.modules import SubspaceDecoder

PROMPT_BYTES = 4 * 32 * 4


class CountingDecoder(SubspaceDecoder):
    """Remembers how many vectors it was given each time."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        self.counts = [*getattr(self, "counts", []), len(vectors)]
        return super().forward(vectors)


@pytest.fixture
def decoder() -> CountingDecoder:
    return CountingDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32).requires_grad_(False)


def cache_of(decoder: CountingDecoder, prompts: int) -> PromptCache:
    return PromptCache(decoder, torch.device("cpu"), torch.float32, max_bytes=prompts * PROMPT_BYTES + 3)


def test_each_row_has_the_prompt_of_its_vector_whatever_was_asked_before(decoder: CountingDecoder) -> None:
    cache = cache_of(decoder, 5)
    vectors = torch.randn(9, 8)
    for seed in range(30):
        chosen = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[: 1 + seed % 7].tolist()
        rows = [row % len(chosen) for row in range(10)]
        prompts = cache.prompts([vectors[one] for one in chosen], rows)
        wanted = SubspaceDecoder.forward(decoder, vectors)[[chosen[row] for row in rows]]
        torch.testing.assert_close(prompts, wanted)
        assert len(cache) <= 5


def test_a_vector_that_is_kept_is_not_decoded_again(decoder: CountingDecoder) -> None:
    cache = cache_of(decoder, 4)
    a, b, c, d, e = torch.randn(5, 8)
    cache.prompts([a, b, c, d], [0, 1, 2, 3])
    cache.prompts([a.clone(), b], [0, 1, 1])  # the numbers count, not the object
    cache.prompts([a, e], [0, 1])  # makes room in place of c, which was used longest ago
    cache.prompts([a, b, d, e], [0, 1, 2, 3])
    cache.prompts([c], [0])
    assert decoder.counts == [4, 1, 1]


def test_more_tasks_than_fit_are_answered_without_being_kept(decoder: CountingDecoder) -> None:
    vectors = torch.randn(3, 8)
    wanted = SubspaceDecoder.forward(decoder, vectors)
    for prompts in (0, 2):
        cache = cache_of(decoder, prompts)
        torch.testing.assert_close(cache.prompts(list(vectors), [2, 0, 1, 2]), wanted[[2, 0, 1, 2]])
        assert len(cache) == 0


def test_a_prompt_that_was_not_written_is_not_taken_for_one_that_was(decoder: CountingDecoder) -> None:
    class Failing(PromptCache):
        fails = False

        def _sent(self, numbers: Sequence[int]) -> torch.Tensor:
            if self.fails:
                raise torch.OutOfMemoryError
            return super()._sent(numbers)

    cache = Failing(decoder, torch.device("cpu"), torch.float32, max_bytes=2 * PROMPT_BYTES)
    a, b, c = torch.randn(3, 8)
    cache.prompts([a, b], [0, 1])
    cache.fails = True
    with pytest.raises(torch.OutOfMemoryError):
        cache.prompts([c], [0])
    cache.fails = False
    torch.testing.assert_close(cache.prompts([c, b], [0, 1]), SubspaceDecoder.forward(decoder, torch.stack([c, b])))
