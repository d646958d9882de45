"""What a process does with memory that was freed."""

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

# Tensors of eight megabytes, 2,048 pages each, made and freed again and again; counted after the first few.
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
        # Where glibc still learns by itself from what is freed, it has not learned of pieces this large.
        env={"MALLOC_MMAP_THRESHOLD_": "131072", "PATH": ""},
    )
    return int(ran.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="this C library has no mallopt")
def test_memory_that_was_freed_is_used_again_without_being_cleared_by_the_system() -> None:
    # The heap still grows by a tensor now and then, before it has settled.
    assert page_faults("") > 100 * 2048
    assert page_faults("keep_freed_memory()") < 10 * 2048


def test_what_pytorch_keeps_of_freed_tensors_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an engine that is made after others would do little at a time on an idle GPU."""
    gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, hidden_size=64)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 60 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20 * 2**30)
    wanted = SHARE_OF_FREE * 50 * 2**30 / 2 / (FLOATS_PER_LAYER * 64)
    assert positions_without_gradients(cast(MeasuredModel, gpu)) == int(wanted)
