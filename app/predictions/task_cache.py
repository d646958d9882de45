"""An LRU cache of bound tasks, so that a busy task is read from the database once."""

import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ipt import BoundTask

TaskKey = tuple[str, int]
"""Task id and version. Ids are never reused, so a cached entry can be useless but never wrong."""
_OBJECT_BYTES = 2048
"""About what the objects of one task take besides their contents."""


@dataclass(frozen=True, slots=True)
class CachedTask:
    """A bound task, and the most bytes of its predictions by the number of their scores."""

    task: BoundTask
    prediction_bytes: Sequence[int]

    def memory_bytes(self) -> int:
        """Return about how much memory the task takes."""
        head, scope = self.task.head, self.task.scope
        tensors = [self.task.vector]
        for linear in (self.task.readout, None if scope is None else scope.linear):
            if linear is not None:
                tensors += [linear.weights, linear.row_scale, linear.bias]
        contents = (head.readout, head.scope, self.prediction_bytes, *head.labels)
        arrays = head.vector.nbytes + sum(tensor.nbytes for tensor in tensors)
        return _OBJECT_BYTES + arrays + sum(map(sys.getsizeof, contents))


CachedT = TypeVar("CachedT", bound=CachedTask)


class BoundTasks(Generic[CachedT]):
    """The most recently used tasks; thread-safe."""

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tasks: OrderedDict[TaskKey, tuple[CachedT, int]] = OrderedDict()
        self._versions: Counter[str] = Counter()
        self._lock = threading.Lock()

    def get(self, key: TaskKey) -> CachedT | None:
        """Return the task and mark it as the most recently used."""
        with self._lock:
            if key not in self._tasks:
                return None
            self._tasks.move_to_end(key)
            return self._tasks[key][0]

    def knows(self, task_id: str) -> bool:
        """Return whether any version of this task is cached."""
        with self._lock:
            return task_id in self._versions

    def put(self, key: TaskKey, task: CachedT) -> None:
        """Cache a task, and evict the least recently used ones until the cache is within its limits."""
        size = task.memory_bytes()
        with self._lock:
            if key in self._tasks:
                self._remove(key)
            self._tasks[key] = task, size
            self._versions[key[0]] += 1
            self._bytes += size
            while len(self._tasks) > self._capacity or self._bytes > self._max_bytes:
                self._remove(next(iter(self._tasks)))

    def _remove(self, key: TaskKey) -> None:
        _, size = self._tasks.pop(key)
        self._bytes -= size
        self._versions[key[0]] -= 1
        if not self._versions[key[0]]:
            del self._versions[key[0]]
