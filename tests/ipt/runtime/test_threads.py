"""CPU threads beside a GPU."""

from collections.abc import Iterator

import pytest
import torch

from ipt.runtime.threads import THREADS_BESIDE_GPU, limit_cpu_threads


@pytest.fixture(autouse=True)
def six_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("before", "device", "after"), [(6, "cpu", 6), (6, "cuda:0", THREADS_BESIDE_GPU), (1, "cuda:0", 1)]
)
def test_a_gpu_limits_the_cpu_threads(before: int, device: str, after: int) -> None:
    torch.set_num_threads(before)
    limit_cpu_threads(torch.device(device))
    assert torch.get_num_threads() == after
