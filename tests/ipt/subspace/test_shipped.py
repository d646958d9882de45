"""The subspaces in the package: which backbone each is for, their size, and what their manifests say."""

from pathlib import Path

import pytest

from ipt.subspace.manifest import MANIFEST_FILE, read_manifest
from ipt.subspace.shipped import default_folder, shipped_folders


def test_each_packaged_backbone_has_a_subspace_by_default() -> None:
    of_backbone = {}
    for name in ("default", "smollm2"):
        folder = default_folder().parent / name
        manifest = read_manifest(folder / MANIFEST_FILE)
        of_backbone[manifest["backbone"]["id"]] = name
        assert default_folder(manifest["backbone"]["weights_sha256"]) == folder
    assert of_backbone == {"sentence-transformers/all-MiniLM-L6-v2": "default", "smollm2": "smollm2"}
    assert default_folder("of another backbone") == default_folder()


@pytest.mark.parametrize("folder", shipped_folders(), ids=lambda folder: folder.name)
def test_a_manifest_names_the_tasks_and_the_command_of_its_fit(folder: Path) -> None:
    training = read_manifest(folder / MANIFEST_FILE)["training"]
    assert len(set(training["tasks"])) == len(training["tasks"]) >= 70
    assert training["command"].startswith("ipt subspace fit ")
    assert "/" not in training["command"], "no path of the machine that fitted it"


def test_the_subspace_of_smollm2_is_small() -> None:
    assert sum(file.stat().st_size for file in (default_folder().parent / "smollm2").iterdir()) < 8_000_000
