"""Tasks kept ready in memory, so that a task that is asked often is read from the database once."""

import threading
from collections import Counter, OrderedDict

from ipt import BoundTask

TaskKey = tuple[str, int]
"""Task id and version; ids are never given out twice, so an entry can be useless but never wrong."""


class BoundTasks:
    """The most recently used tasks; safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tasks: OrderedDict[TaskKey, BoundTask] = OrderedDict()
        self._versions: Counter[str] = Counter()
        self._lock = threading.Lock()

    def get(self, key: TaskKey) -> BoundTask | None:
        """The task, which thereby becomes the most recently used one."""
        with self._lock:
            task = self._tasks.get(key)
            if task is not None:
                self._tasks.move_to_end(key)
            return task

    def knows(self, task_id: str) -> bool:
        """Whether any version of this task is in memory."""
        with self._lock:
            return task_id in self._versions

    def put(self, key: TaskKey, task: BoundTask) -> None:
        """Keep a task, and drop the one not used for longest when there are too many."""
        with self._lock:
            self._versions[key[0]] += key not in self._tasks
            self._tasks[key] = task
            self._tasks.move_to_end(key)
            if len(self._tasks) > self._capacity:
                (dropped, _), _ = self._tasks.popitem(last=False)
                self._versions[dropped] -= 1
                if not self._versions[dropped]:
                    del self._versions[dropped]
