"""Which of a task's two versions answers a request, if a canary gets a share of its traffic."""

import hashlib
from collections.abc import Sequence

from app.predictions.repository import Answering


def version_for(candidates: Answering, texts: Sequence[str]) -> int:
    """Return the version that answers all of a request's texts for one task.

    The texts decide, not chance: a request that is repeated gets the same version.
    """
    assert candidates.version is not None
    if candidates.canary is None or candidates.share is None:
        return candidates.version
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    drawn: float = int.from_bytes(digest.digest()) / 2**64
    return candidates.canary if drawn < candidates.share else candidates.version
