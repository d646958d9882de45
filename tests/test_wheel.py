"""The wheel: two top-level packages, `ipt` and `ipt_service`, and a command that starts from them."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ipt", "app", "worker", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline from a copy of the sources, since setuptools writes next to them."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [built] = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, as an installer unpacks it."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_only_the_library_and_one_namespace_are_top_level(site_packages: Path) -> None:
    names = {path.name for path in site_packages.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"ipt", "ipt_service"}
    [info] = names - {"ipt", "ipt_service"}
    scripts = (site_packages / info / "entry_points.txt").read_text().split("\n")
    assert "ipt = ipt_service.app.cli.__main__:main" in scripts


def test_every_source_file_is_in_the_wheel(site_packages: Path) -> None:
    def files(folder: Path) -> set[Path]:
        paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder) for path in paths}

    assert files(site_packages / "ipt") == files(ROOT / "ipt")
    for name in ("app", "worker", "migrations"):
        assert files(site_packages / "ipt_service" / name) == files(ROOT / name)


@pytest.fixture
def installed(site_packages: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a command that finds the wheel, started next to packages named like the service's."""
    for name in ("app", "worker", "migrations"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    return {**os.environ, "PYTHONPATH": str(site_packages)}


def test_the_command_starts_from_the_wheel(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "ipt_service.app.cli", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=installed, check=True, capture_output=True, text=True).stdout
    assert "serve" in shown
    assert "keys" in shown


def test_child_processes_find_the_packages_of_the_wheel(
    installed: dict[str, str], site_packages: Path, tmp_path: Path
) -> None:
    script = (
        "import subprocess, sys\n"
        "from ipt_service.app.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-m', 'worker', '--help'], check=True)\n"
        "code = 'import app, worker, migrations; print(app.__file__, worker.__file__, migrations.__file__)'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    command = [sys.executable, "-P", "-c", script, "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=installed, check=True, capture_output=True, text=True).stdout
    assert "--poll" in shown
    assert shown.splitlines()[-1].split() == [
        str(site_packages / "ipt_service" / name / "__init__.py") for name in ("app", "worker", "migrations")
    ]
