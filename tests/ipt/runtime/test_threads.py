from collections.abc import Iterator

import pytest
import torch

from ipt.runtime.threads import BESIDE_A_GPU, limit_cpu_threads


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("had", "device", "left"), [(6, "cpu", 6), (6, "cuda:0", BESIDE_A_GPU), (1, "cuda:0", 1)])
def test_few_threads_are_left_beside_a_gpu(had: int, device: str, left: int) -> None:
    torch.set_num_threads(had)
    limit_cpu_threads(torch.device(device))
    assert torch.get_num_threads() == left
