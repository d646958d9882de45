"""Tasks in memory: the most recently used ones, of which any version counts as known."""

from unittest.mock import Mock

import ipt
from app.predictions.bound_tasks import BoundTasks


def test_the_one_not_used_for_longest_goes_and_is_no_longer_known() -> None:
    tasks, one, other = BoundTasks(2), Mock(ipt.BoundTask), Mock(ipt.BoundTask)
    tasks.put(("a", 1), one)
    tasks.put(("a", 1), one)
    tasks.put(("b", 1), other)
    assert tasks.get(("a", 1)) is one
    tasks.put(("a", 2), other)
    assert (tasks.get(("b", 1)), tasks.knows("b")) == (None, False)
    tasks.put(("c", 1), other)
    assert tasks.get(("a", 1)) is None
    assert tasks.knows("a")
    tasks.put(("c", 2), other)
    assert not tasks.knows("a")
    assert tasks.knows("c")
