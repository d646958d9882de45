"""The prompt cache: right prompts, each decoded once, within its memory."""

from collections.abc import Sequence

import pytest
import torch

from ipt.prediction.prompt_cache import PromptCache
from ipt.subspace.prompt_decoder import SubspaceDecoder

PROMPT_BYTES = 4 * 32 * 4


class CountingDecoder(SubspaceDecoder):
    """Records the number of vectors of each call."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        self.counts = [*getattr(self, "counts", []), len(vectors)]
        return super().forward(vectors)


@pytest.fixture
def decoder() -> CountingDecoder:
    return CountingDecoder(intrinsic_dim=8, decoder_hidden=16, prompt_length=4, hidden_size=32).requires_grad_(False)


def cache_of(decoder: CountingDecoder, prompts: int) -> PromptCache:
    return PromptCache(decoder, torch.device("cpu"), torch.float32, max_bytes=prompts * PROMPT_BYTES + 3)


def test_each_row_gets_the_prompt_of_its_vector_after_any_calls(decoder: CountingDecoder) -> None:
    cache = cache_of(decoder, 5)
    vectors = torch.randn(9, 8)
    for seed in range(30):
        chosen = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[: 1 + seed % 7].tolist()
        rows = [row % len(chosen) for row in range(10)]
        prompts = cache.prompts([vectors[number] for number in chosen], rows)
        expected = SubspaceDecoder.forward(decoder, vectors)[[chosen[row] for row in rows]]
        torch.testing.assert_close(prompts, expected)
        assert len(cache) <= 5


def test_a_cached_vector_is_not_decoded_again(decoder: CountingDecoder) -> None:
    cache = cache_of(decoder, 4)
    a, b, c, d, e = torch.randn(5, 8)
    cache.prompts([a, b, c, d], [0, 1, 2, 3])
    cache.prompts([a.clone(), b], [0, 1, 1])  # the key is the value, not the object
    cache.prompts([a, e], [0, 1])  # evicts c, the least recently used one
    cache.prompts([a, b, d, e], [0, 1, 2, 3])
    cache.prompts([c], [0])
    assert decoder.counts == [4, 1, 1]


def test_more_vectors_than_fit_are_decoded_without_caching(decoder: CountingDecoder) -> None:
    vectors = torch.randn(3, 8)
    expected = SubspaceDecoder.forward(decoder, vectors)
    for prompts in (0, 2):
        cache = cache_of(decoder, prompts)
        torch.testing.assert_close(cache.prompts(list(vectors), [2, 0, 1, 2]), expected[[2, 0, 1, 2]])
        assert len(cache) == 0


def test_a_failed_write_leaves_no_undefined_prompt(decoder: CountingDecoder) -> None:
    class Failing(PromptCache):
        fails = False

        def _index(self, numbers: Sequence[int]) -> torch.Tensor:
            if self.fails:
                raise torch.OutOfMemoryError
            return super()._index(numbers)

    cache = Failing(decoder, torch.device("cpu"), torch.float32, max_bytes=2 * PROMPT_BYTES)
    a, b, c = torch.randn(3, 8)
    cache.prompts([a, b], [0, 1])
    cache.fails = True
    with pytest.raises(torch.OutOfMemoryError):
        cache.prompts([c], [0])
    cache.fails = False
    torch.testing.assert_close(cache.prompts([c, b], [0, 1]), SubspaceDecoder.forward(decoder, torch.stack([c, b])))
