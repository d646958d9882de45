"""Load a backbone and a subspace together, in a process that only computes with them."""

from ipt.backbones.interface import Backbone
from ipt.backbones.loading import load_in_dedicated_process
from ipt.subspace.store import load_subspace
from ipt.subspace.subspace import Subspace


def load_backbone_and_subspace(
    backbone: str, subspace: str, *, revision: str | None = None, device: str | None = None
) -> tuple[Backbone, Subspace]:
    """Load a backbone, and a subspace onto its device, and tune memory and threads of the process for them.

    Args:
        backbone: ``"default"``, a local folder or a hub id.
        subspace: ``"default"`` or a local folder.
        revision: the commit of a hub id.
        device: CUDA if available, otherwise the CPU, when None.

    Raises:
        BackboneError: the backbone cannot be loaded.
        SubspaceError: the subspace cannot be loaded, or was fitted on another backbone.
    """
    loaded = load_in_dedicated_process(backbone, revision, device)
    return loaded, load_subspace(subspace, loaded)
