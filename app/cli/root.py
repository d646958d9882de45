"""The command `ipt` with all its subcommands, and how a command that fails ends."""

import logging
import sys
import warnings

import typer
from pydantic import ValidationError

from app.cli import demo, evaluate, import_dataset, keys, service, settings, study, subspace, tasks
from app.cli.output import CliError, print_error
from app.validation import explain

_ABOUT = """Adapt one frozen language model to many few-shot tasks; each task is one vector of 250 floats.

\b
ipt demo                                   see the whole of it work
ipt serve                                  run the service on this machine
ipt adapt examples/support_tickets.jsonl   make a task from examples
ipt predict support_tickets "my text"      use it
"""

cli = typer.Typer(
    name="ipt",
    help=_ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (demo.demo, service.serve, tasks.adapt, tasks.predict, tasks.generate, tasks.tasks, tasks.export):
    cli.command()(_command)
subspace.commands.command()(evaluate.evaluate)
subspace.commands.command()(study.study)
subspace.commands.command()(import_dataset.import_dataset)
cli.add_typer(subspace.commands, name="subspace")
for _command in (service.worker, service.migrate, settings.settings):
    cli.command(rich_help_panel="Operating")(_command)
cli.add_typer(keys.commands, name="keys", rich_help_panel="Operating")


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", FutureWarning)
    try:
        try:
            cli(args=arguments, prog_name="ipt")
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except KeyboardInterrupt:
        return 130
    except CliError as error:
        print_error(str(error))
        return 1
    except ValidationError as error:
        # Settings are the only pydantic model that a command makes from what the user wrote.
        problem = error.errors(include_url=False, include_input=False)[0]
        print_error(f"IPT_{'_'.join(str(part) for part in problem['loc']).upper()}: {explain(problem)}")
        return 1
    except OSError as error:  # a full disk, a folder that nobody may write to
        where = "" if error.filename is None else f"{error.filename}: "
        print_error(f"{where}{error.strerror or error}")
        return 1
    except Exception as error:
        if not _is_known(error):
            raise
        print_error(str(error))
        return 1
    return 0


def _is_known(error: Exception) -> bool:
    """Whether `ipt` raised it on purpose, or safetensors could not write; by name, since importing either loads torch
    for every command."""
    names = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    return ("ipt.errors", "IptError") in names or "SafetensorError" in {name for _, name in names}
