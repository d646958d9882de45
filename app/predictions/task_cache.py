"""An LRU cache of bound tasks, so that a busy task is read from the database once."""

import threading
from collections import Counter, OrderedDict

from ipt import BoundTask

TaskKey = tuple[str, int]
"""Task id and version. Ids are never reused, so a cached entry can be useless but never wrong."""


class BoundTasks:
    """The most recently used tasks; thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tasks: OrderedDict[TaskKey, BoundTask] = OrderedDict()
        self._versions: Counter[str] = Counter()
        self._lock = threading.Lock()

    def get(self, key: TaskKey) -> BoundTask | None:
        """Return the task and mark it as the most recently used."""
        with self._lock:
            task = self._tasks.get(key)
            if task is not None:
                self._tasks.move_to_end(key)
            return task

    def knows(self, task_id: str) -> bool:
        """Return whether any version of this task is cached."""
        with self._lock:
            return task_id in self._versions

    def put(self, key: TaskKey, task: BoundTask) -> None:
        """Cache a task, and evict the least recently used one if there are too many."""
        with self._lock:
            self._versions[key[0]] += key not in self._tasks
            self._tasks[key] = task
            self._tasks.move_to_end(key)
            if len(self._tasks) > self._capacity:
                (evicted, _), _ = self._tasks.popitem(last=False)
                self._versions[evicted] -= 1
                if not self._versions[evicted]:
                    del self._versions[evicted]
