"""The folder to which a command writes a subspace."""

from collections.abc import Mapping
from pathlib import Path

from app.cli.output import CliError, check_folder, print_json, results


def check_new_subspace(output: Path) -> None:
    """Check before a long command that a subspace can be written to a folder.

    Raises:
        CliError: the folder is not writable, or has a finished subspace.
    """
    from ipt.fitting.resumable_fit import is_finished

    check_folder(output)
    if is_finished(output):
        raise CliError(f"{output} has a finished subspace: choose another OUTPUT, or remove it to fit it again")


def print_location(subspace_id: str, output: Path, more: Mapping[str, float], *, as_json: bool) -> None:
    """Print where a subspace was written, and `more` measures of it if as JSON."""
    if as_json:
        print_json({"subspace_id": subspace_id, "folder": str(output), **more})
    else:
        results().print(f"{subspace_id} in {output}; use it with IPT_SUBSPACE={output}", soft_wrap=True)
