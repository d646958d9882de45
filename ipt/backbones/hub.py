"""Download a model repository from the Hugging Face hub, or find it in the local cache when offline."""

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

FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "1_Pooling/config.json"]
# The same weights in other formats: as large, and never read.
IGNORED_FILES = ["onnx/*", "openvino/*", "original/*", "consolidated*"]
COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


def fetch(
    repository: str, revision: str | None, *, check_config: Callable[[dict[str, Any], str], object]
) -> tuple[Path, str]:
    """Return the folder of the repository's files, and their commit.

    A revision that is not a commit hash is resolved with a warning: a branch or tag may move to other weights, which
    would no longer fit the task vectors.

    Args:
        check_config: called with config.json and the repository's name before the large files are downloaded.

    Raises:
        BackboneError: the repository is in neither the cache nor the hub, or `check_config` rejects it.
    """
    try:
        config_file = hf_hub_download(repository, "config.json", revision=revision)
        check_config(json.loads(Path(config_file).read_text(encoding="utf-8")), repository)
        folder = Path(
            snapshot_download(repository, revision=revision, allow_patterns=FILES, ignore_patterns=IGNORED_FILES)
        )
    except BackboneError:
        raise
    # ValueError: the client rejects a malformed id, or config.json is damaged.
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise BackboneError(_explain(repository, revision, error), param="backbone") from error
    _warn_of_moving_revision(repository, revision, folder.name)
    return folder, folder.name


def fetch_file(repository: str, name: str, revision: str | None) -> tuple[Path, str]:
    """Return one file of a repository and its commit, with a warning as in `fetch`.

    Raises:
        BackboneError: the file is in neither the cache nor the hub.
    """
    try:
        file = Path(hf_hub_download(repository, name, revision=revision))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise BackboneError(_explain(f"{repository}/{name}", revision, error), param="backbone") from error
    _warn_of_moving_revision(repository, revision, file.parent.name)
    return file, file.parent.name


def _warn_of_moving_revision(repository: str, revision: str | None, commit: str) -> None:
    if revision is None or not COMMIT.fullmatch(revision):
        logger.warning(
            "%s was loaded at %s, which is now commit %s; pin revision=%s so that it stays the same model",
            repository,
            f"revision {revision!r}" if revision else "its newest revision",
            commit,
            commit,
        )


def _explain(repository: str, revision: str | None, error: Exception) -> str:
    at = f" at revision {revision}" if revision else ""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403, 404):
            return (
                f"the hub answers {status} for {repository}{at}: check the id and the revision, or give the path of a "
                "local folder"
            )
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return f"{repository!r} is neither a local folder nor a hub repository with a valid config.json"
    return (
        f"{repository}{at} is not in the local cache and the hub cannot be reached: go online once, or give the path "
        'of a local folder; "default" needs no network'
    )
