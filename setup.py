"""Package layout of the wheel: `ipt` is the library, and the service's packages are below `ipt_service`.

The rest of the configuration is in pyproject.toml, whose `packages.find` cannot rename packages.
"""

from setuptools import find_packages, setup

SERVICE = ("app", "worker", "migrations")

setup(
    packages=[
        *find_packages(include=["ipt", "ipt.*"]),
        *(f"ipt_service.{name}" for top in SERVICE for name in find_packages(include=[top, f"{top}.*"])),
    ],
    package_dir={f"ipt_service.{top}": top for top in SERVICE},
)
