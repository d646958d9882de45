"""The cache of bound tasks is bounded in entries and bytes, and knows tasks by any version."""

import numpy as np
import torch

import ipt
from app.predictions.answer_size import prediction_bytes
from app.predictions.task_cache import BoundTasks, CachedTask
from ipt.readout.readout import Readout


def _task(labels: tuple[str, ...] = ("a", "b"), readout: Readout | None = None) -> CachedTask:
    vector = np.zeros(8, np.float32)
    head = ipt.TaskHead(vector, "sub_1", "classification", labels, None if readout is None else readout.to_bytes())
    return CachedTask(ipt.BoundTask(head, torch.as_tensor(vector), readout), prediction_bytes(labels))


def test_the_least_recently_used_task_is_evicted() -> None:
    tasks, first, other = BoundTasks(2, 10**6), _task(), _task()
    tasks.put(("a", 1), first)
    tasks.put(("a", 1), first)
    tasks.put(("b", 1), other)
    assert tasks.get(("a", 1)) is first
    tasks.put(("a", 2), other)
    assert (tasks.get(("b", 1)), tasks.knows("b")) == (None, False)
    tasks.put(("c", 1), other)
    assert tasks.get(("a", 1)) is None
    assert tasks.knows("a")
    tasks.put(("c", 2), other)
    assert not tasks.knows("a")
    assert tasks.knows("c")


def test_memory_is_bounded_however_large_the_tasks_are() -> None:
    wide = Readout(torch.ones(200, 2 * 1024, dtype=torch.int8), torch.ones(200), torch.ones(200))
    large = [_task(tuple(f"{label}{'x' * 10_000}" for label in range(200))), _task(tuple(map(str, range(200))), wide)]
    assert large[0].memory_bytes() > 200 * 10_000
    assert large[1].memory_bytes() > 200 * 2 * 1024
    small = _task()
    tasks = BoundTasks(1000, large[0].memory_bytes() + small.memory_bytes())
    for number in range(20):
        tasks.put((f"small-{number}", 1), small)
    assert all(tasks.knows(f"small-{number}") for number in range(20))
    tasks.put(("large", 1), large[0])
    tasks.put(("large", 1), large[0])
    assert [number for number in range(20) if tasks.knows(f"small-{number}")] == [19]
    tasks.put(("large", 2), large[0])
    assert (tasks.get(("large", 1)), tasks.get(("large", 2))) == (None, large[0])
    assert not tasks.knows("small-19")


def test_a_task_that_does_not_fit_is_not_cached() -> None:
    tasks = BoundTasks(10, 1000)
    tasks.put(("a", 1), _task())
    assert not tasks.knows("a")
