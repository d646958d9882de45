"""Fetch the files of a hub repository, or find them in the local cache when there is no network."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ipt.errors import BackboneError

FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "1_Pooling/config.json"]
# Other people's formats of the same weights: as large again, and never read.
LEFT_OUT = ["onnx/*", "openvino/*", "original/*", "consolidated*"]
COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


def fetch(
    repository: str, revision: str | None, *, check_config: Callable[[dict[str, Any], str], object]
) -> tuple[Path, str]:
    """Folder of the repository's files, and the commit they are of.

    `check_config` sees config.json before anything large is fetched. A revision that is not a commit hash is
    resolved and warned about: what it names can change, and a task vector fits one set of weights only.
    """
    try:
        config_file = hf_hub_download(repository, "config.json", revision=revision)
        check_config(json.loads(Path(config_file).read_text(encoding="utf-8")), repository)
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=FILES, ignore_patterns=LEFT_OUT))
    except BackboneError:
        raise
    # ValueError is what the client raises on an id that cannot be one, and json on a damaged config.
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise BackboneError(_reason(repository, revision, error), param="backbone") from error
    commit = folder.name
    if revision is None or not COMMIT.fullmatch(revision):
        logger.warning(
            "%s was taken at %s, which is now commit %s; pin revision=%s so that it stays the same model",
            repository,
            f"revision {revision!r}" if revision else "its newest revision",
            commit,
            commit,
        )
    return folder, commit


def _reason(repository: str, revision: str | None, error: Exception) -> str:
    at = f" at revision {revision}" if revision else ""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403, 404):
            return (
                f"the hub has no {repository}{at} that can be read ({status}): check the id and the revision, or give "
                "the path of a local folder"
            )
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return f"{repository!r} is neither a local folder nor a hub repository with a sound config.json"
    return (
        f"{repository}{at} is not in the local cache and the hub cannot be reached: go online once, or give the path "
        'of a local folder; "default" needs no network'
    )
