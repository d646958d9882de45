"""What a process does with memory that was freed."""

import subprocess
import sys

import pytest

from ipt.memory import keep_freed_memory

# Tensors of eight megabytes, 2,048 pages each, made and freed again and again; counted after the first few.
_FAULTS = """
import resource, torch
from ipt.memory import keep_freed_memory
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
