"""The cache of bound tasks evicts the least recently used task and knows tasks by any version."""

from unittest.mock import Mock

import ipt
from app.predictions.task_cache import BoundTasks


def test_the_least_recently_used_task_is_evicted() -> None:
    tasks, first, other = BoundTasks(2), Mock(ipt.BoundTask), Mock(ipt.BoundTask)
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
