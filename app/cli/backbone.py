"""The backbone of a command that computes for minutes to hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipt.backbones.protocol import Backbone


def load_for_long_work(backbone: str, revision: str | None, device: str | None) -> Backbone:
    """`ipt.load_backbone`, in a process that is set up to do little else."""
    import ipt
    from ipt.memory import keep_freed_memory
    from ipt.threads import few_beside

    keep_freed_memory()
    loaded = ipt.load_backbone(backbone, revision=revision, device=device)
    few_beside(loaded.device)
    return loaded
