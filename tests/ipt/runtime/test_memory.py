"""Reuse of freed memory, and estimates of how many positions fit."""

import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from ipt.runtime.memory import (
    FLOATS_PER_LAYER,
    SHARE_OF_FREE,
    MeasuredModel,
    keep_freed_memory,
    positions_without_gradients,
)

# Allocates and frees tensors of eight megabytes (2,048 pages) and counts the page faults after the first few.
_FAULTS = """
import resource, torch
from ipt.runtime.memory import keep_freed_memory
{}
for _ in range(3):
    torch.ones(2, 2**20) + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.ones(2, 2**20) + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first: str) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", _FAULTS.format(first)],
        capture_output=True,
        text=True,
        check=True,
        # glibc raises this threshold by itself when blocks are freed; a fixed value keeps it from doing so.
        env={"MALLOC_MMAP_THRESHOLD_": "131072", "PATH": ""},
    )
    return int(ran.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="this C library has no mallopt")
def test_freed_memory_is_reused_without_page_faults() -> None:
    # The heap still grows by a tensor now and then until it settles.
    assert page_faults("") > 100 * 2048
    assert page_faults("keep_freed_memory()") < 10 * 2048


def test_memory_that_pytorch_caches_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an engine created after others would use small batches on an idle GPU."""
    gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, hidden_size=64)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 60 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20 * 2**30)
    expected = SHARE_OF_FREE * 50 * 2**30 / 2 / (FLOATS_PER_LAYER * 64)
    assert positions_without_gradients(cast(MeasuredModel, gpu)) == int(expected)
