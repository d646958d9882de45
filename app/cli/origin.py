"""The entries of a subspace's manifest that record the command that fitted it."""

import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipt.data.task_dataset import TaskDataset


def origin_of_fit(tasks: Sequence["TaskDataset"]) -> dict[str, object]:
    """Return the command line, the version of `ipt`, and the notes on skipped and repeated rows of the tasks."""
    from ipt.data.task_dataset import row_notes

    return {
        "command": shlex.join(["ipt", *sys.argv[1:]]),
        "ipt": version("intrinsic-prompt-tuning"),
        "skipped": row_notes(tasks),
    }
